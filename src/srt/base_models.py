"""Base models as folders in Hugging Face format with a fingerprint, wherever they come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srt.checkpoints import write_provenance
from srt.config.models import HubModel, LocalModel, ModelConfig, TinyModel
from srt.errors import SrtError
from srt.io import atomic_dir
from srt.progress import log

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # weights and tokenizer; never code or pickles


def make(name: str, spec: dict[str, Any], out: Path) -> None:
    """Write the model `name` of a spec (a models.yaml entry with `revision_of_code`) to `out`, whole or not at all."""
    entry = {k: v for k, v in spec.items() if k != "revision_of_code"}
    try:
        model: HubModel | LocalModel | TinyModel = TypeAdapter(ModelConfig).validate_python(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise SrtError(
            f"models: {name}: {where}: {first['msg'].removeprefix('Value error, ')}: see config/README.md"
        ) from None
    with atomic_dir(out) as folder:
        info: dict[str, Any] = {}
        if isinstance(model, TinyModel):
            from srt.tiny import train_base

            info = train_base(model, folder)
        elif isinstance(model, LocalModel):
            _copy(name, Path(model.path), folder)
        else:
            _fetch(name, model, folder)
        fingerprint = write_provenance(folder, source=entry, **info)
    log(f"{name}: {fingerprint[:16]} {info or ''}")


def _copy(name: str, source: Path, folder: Path) -> None:
    if not (source / "config.json").is_file():
        raise SrtError(f"models: {name}: path: {source} holds no config.json: name a folder in Hugging Face format")
    files = [p for pattern in PATTERNS for p in sorted(source.glob(pattern))]
    if not any(p.suffix == ".safetensors" for p in files):
        raise SrtError(
            f"models: {name}: path: {source} holds no .safetensors: convert it (pickled weights are refused)"
        )
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _fetch(name: str, model: HubModel, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        cached = snapshot_download(model.repo, revision=model.revision, allow_patterns=PATTERNS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SrtError(
            f"models: {name}: {model.repo}@{model.revision[:8]} cannot be fetched ({reason}): check repo, revision and "
            "network, or download it elsewhere and use `source: local`"
        ) from error
    _copy(name, Path(cached), folder)
