"""Model folders in Hugging Face format: their fingerprint, end tokens and loading."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError, nearest
from srt.common.io import canonical_json, read_json, sha256_bytes, sha256_file, write_json
from srt.models.loading import read_model, read_tokenizer

PROVENANCE = "srt.json"
THREADS = 8  # that hash the files of a model
DTYPES = ("float32", "bfloat16")


def write_provenance(folder: Path, **fields: Any) -> str:
    """Write the hashes of the folder's files and `fields` to `srt.json`; return the fingerprint."""
    files = {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != PROVENANCE}
    fingerprint = sha256_bytes(canonical_json(files).encode())
    write_json(folder / PROVENANCE, {"fingerprint": fingerprint, "files": files, **fields})
    return fingerprint


def fingerprint(folder: str | Path) -> str:
    """The fingerprint in `srt.json` of a model folder; an `SrtError` if the workflow has not made the folder."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise SrtError(f"{folder} is not a model in Hugging Face format (no config.json): run the rule that makes it")
    provenance = read_json(folder / PROVENANCE)
    if not isinstance(provenance, dict) or "fingerprint" not in provenance:
        raise SrtError(f"{folder / PROVENANCE} has no fingerprint: delete {folder} and rerun the rule that makes it")
    return str(provenance["fingerprint"])


def check_model(folder: str | Path, rank: int = 0, size: int = 1) -> None:
    """Compare the files of a model folder with the hashes in its `srt.json`; of `size` processes each takes a share.

    Files are hashed in threads: 15 GB in four files take some three seconds with four cores.

    Raises:
        SrtError: one sentence that names the file that has changed, and what to do.
    """
    folder = Path(folder)
    fingerprint(folder)
    listed = read_json(folder / PROVENANCE).get("files")
    if not isinstance(listed, dict) or "config.json" not in listed:
        raise SrtError(f"{folder / PROVENANCE} does not list the model's files: delete {folder} and make it again")
    share = list(listed.items())[rank::size]

    def changed(name: str, known: str) -> bool:
        return not (folder / name).is_file() or sha256_file(folder / name) != known

    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        verdicts = threads.map(lambda item: changed(*item), share)
        damaged = next((name for (name, _), wrong in zip(share, verdicts, strict=True) if wrong), None)
    if damaged:
        raise SrtError(
            f"{folder / damaged} is damaged or missing: it is not the file that {PROVENANCE} records. Delete {folder} "
            "and rerun the rule that makes it"
        )


def end_tokens(model_config: Any, generation_config: Any, tokenizer: Any, where: str) -> list[int]:
    """Token ids that end a response: those of the generation config, else the end token of the tokenizer or model."""
    found: Any = getattr(generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else model_config.eos_token_id
    ids: Sequence[Any] = found if isinstance(found, list | tuple) else [found]
    if not ids or any(i is None for i in ids):
        raise SrtError(
            f"{where}: the model names no end-of-sequence token: set eos_token_id in its generation_config.json"
        )
    for i in ids:
        if not isinstance(i, int) or not 0 <= i < model_config.vocab_size:
            raise SrtError(
                f"{where}: eos_token_id: {i!r} is not the number of a token (0 to {model_config.vocab_size - 1}): "
                "correct generation_config.json"
            )
    return sorted(set(ids))


def load_model(folder: str | Path, dtype: str, device: Any = "cpu") -> tuple[Any, Any, list[int]]:
    """The model (in evaluation mode), tokenizer and end tokens of a folder, without running code from it.

    Raises:
        SrtError: one sentence on what is missing, damaged or contradictory (`srt.models.loading`).
    """
    import torch

    fingerprint(folder)  # a clear error before a long one
    if dtype not in DTYPES:
        raise SrtError(f"unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    tokenizer = read_tokenizer(Path(folder), str(folder))
    model = read_model(Path(folder), getattr(torch, dtype), str(folder), device)
    return model, tokenizer, end_tokens(model.config, model.generation_config, tokenizer, str(folder))
