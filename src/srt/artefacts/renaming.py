"""Results of a run under a new name: its folders are moved, and the records that name them are rewritten."""

from __future__ import annotations

import os
import re
from pathlib import Path

from srt.artefacts.records import SUFFIX
from srt.common.errors import SrtError
from srt.common.io import write_text


def rename_run(results: Path, old: str, new: str) -> tuple[int, int]:
    """Give all that a results folder holds of run `old`, of every seed, the name `new`; return folders and records.

    What a rename leaves undone when it is killed, the same call does: each folder moves, and each record is rewritten,
    in one step. Nothing is overwritten.

    Raises:
        SrtError: nothing of `old` is there, or something of `new` is in the way.
    """
    folders = _folders(results, old)
    rewritten = [path for path in results.rglob(f"*{SUFFIX}") if _name(old).search(path.read_text(encoding="utf-8"))]
    if not folders and not rewritten:
        raise SrtError(f"{results} holds nothing of a run '{old}'")
    targets = {folder: folder.with_name(f"{new}-s{_seed(folder, old)}") for folder in folders}
    for folder, target in targets.items():
        if target.exists():
            raise SrtError(f"{target} is in the way of {folder}: move or delete one of them")
    for path in rewritten:
        write_text(path, _name(old).sub(rf"{new}-s\1", path.read_text(encoding="utf-8")))
    for folder, target in targets.items():
        os.replace(folder, target)
    return len(folders), len(rewritten)


def _name(run: str) -> re.Pattern[str]:
    """A run of one seed as a whole part of a path or as a whole string of JSON, which may be quoted once more."""
    return re.compile(rf'(?<=[/"]){re.escape(run)}-s(\d+)(?=[/"\\])')


def _seed(folder: Path, run: str) -> str:
    return folder.name.removeprefix(f"{run}-s")


def _folders(results: Path, run: str) -> list[Path]:
    """Folders of the run's seeds: results, progress, and their logs and benchmarks."""
    found = []
    for above, names, _ in os.walk(results):
        own = [name for name in names if re.fullmatch(rf"{re.escape(run)}-s\d+", name)]
        found += [Path(above, name) for name in own]
        names[:] = sorted(set(names) - set(own))  # nothing below them to look for
    return sorted(found)
