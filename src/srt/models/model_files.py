"""What the files of a model folder tell before the model is loaded: whole, readable, neither adapter nor pickle.

Everything here reads a few kilobytes per file, apart from the tokenizer's JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # weights and tokenizer; never code or pickles
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LFS = b"version https://git-lfs.github.com/spec/"  # what a Git LFS pointer begins with
FLOATS = {"F64", "F32", "F16", "BF16"}  # safetensors' names of the types that can be trained


def check_files(folder: Path, where: str) -> None:
    """Refuse a folder whose files cannot be a whole model in Hugging Face format.

    Args:
        folder: with config.json, safetensors and tokenizer files.
        where: begins every message, such as the folder or `models: qwen: path: FOLDER`.

    Raises:
        SrtError: one sentence that names the file and the fix.
    """
    if (folder / ADAPTER).is_file():
        raise SrtError(
            f"{where} has an adapter ({ADAPTER}) and not a whole model: merge it with peft "
            "(`AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(OUT)`), add the "
            "tokenizer's files and name that folder"
        )
    if not (folder / "config.json").is_file():
        raise SrtError(f"{where} has no config.json: name a folder in Hugging Face format")
    for file in sorted(p for pattern in PATTERNS for p in folder.glob(pattern)):
        with file.open("rb") as stream:
            if stream.read(len(LFS)) == LFS:
                raise SrtError(
                    f"{where}: {file.name} is a Git LFS pointer and not the file itself: run `git lfs pull` there"
                )
        if file.suffix == ".json":
            _read_json(file, where)
    if not isinstance(_read_json(folder / "config.json", where), dict):
        raise SrtError(f"{where}: config.json is not an object: copy the file again")
    stored_types(folder, where)


def stored_types(folder: Path, where: str) -> dict[str, str]:
    """The type of each tensor by name, as safetensors calls it, from the headers of the files that are loaded.

    Raises:
        SrtError: a file or the index is missing, damaged or contradicts the other.
    """
    if (folder / WEIGHTS).is_file():
        if (folder / INDEX).is_file():
            raise SrtError(f"{where} has both {WEIGHTS} and {INDEX}: remove the one that is not the model")
        return _header(folder / WEIGHTS, where)
    shards = {p.name for p in folder.glob("model-*-of-*.safetensors")}
    if not (folder / INDEX).is_file():
        if shards:
            raise SrtError(f"{where} has {min(shards)} but no {INDEX}: copy the index as well")
        pickled = next((p.name for pattern in PICKLED for p in sorted(folder.glob(pattern))), None)
        found = f" but {pickled}" if pickled else ""
        raise SrtError(
            f"{where} has no .safetensors file that is a model's{found}: convert it to {WEIGHTS} (pickled "
            "weights are refused)"
        )
    file_of = _index(folder, where)
    if extra := sorted(shards - set(file_of.values())):
        raise SrtError(f"{where}: {INDEX} does not name {extra[0]}: copy the index that belongs to the files")
    types: dict[str, str] = {}
    for name in sorted(set(file_of.values())):
        if not (folder / name).is_file():
            raise SrtError(f"{where}: {name} does not exist, though {INDEX} names it: copy it as well")
        header = _header(folder / name, where)
        listed = {tensor for tensor, file in file_of.items() if file == name}
        if absent := sorted(listed - set(header)):
            raise SrtError(f"{where}: {name} lacks {absent[0]}, which {INDEX} says it has: copy both again")
        if unlisted := sorted(set(header) - listed):
            raise SrtError(f"{where}: {INDEX} does not list {unlisted[0]} of {name}: copy both again")
        types |= header
    return types


def _index(folder: Path, where: str) -> dict[str, str]:
    content = _read_json(folder / INDEX, where)
    file_of = content.get("weight_map") if isinstance(content, dict) else None
    named = isinstance(file_of, dict) and all(isinstance(f, str) and Path(f).name == f for f in file_of.values())
    if not file_of or not named:
        raise SrtError(f"{where}: {INDEX} has no weight_map from tensors to files beside it: copy it again")
    return dict(file_of)


def _header(file: Path, where: str) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SrtError(f"{where}: {file.name} is damaged or cut short ({error}): copy it again") from None


def _read_json(file: Path, where: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also of the encoding
        raise SrtError(f"{where}: {file.name} is not JSON ({error}): copy the file again") from None
