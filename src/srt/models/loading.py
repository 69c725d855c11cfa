"""Loading a model folder: what it lacks or contradicts is refused by name, where transformers would make it up.

Transformers draws missing weights at random, makes an empty tokenizer where there is none, and asks on standard input
whether to run code from the folder. Nothing here does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.common.io import read_json
from srt.common.progress import log
from srt.models.model_files import FLOATS, stored_types

LOCAL: dict[str, bool] = {"local_files_only": True, "trust_remote_code": False}
SAMPLE = "12 + 34 = 46"  # every tokenizer must give this text back


def read_config(folder: Path, where: str) -> Any:
    """The configuration of a causal language model that transformers has the code of.

    Raises:
        SrtError: it is another kind of model, is quantised or would need code of its own.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, __version__

    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if raw.get("quantization_config"):
        method = dict(raw["quantization_config"]).get("quant_method", "unknown")
        raise SrtError(
            f"{where}: config.json: quantization_config: the weights are quantised ({method}), and training needs "
            "whole ones: use the model that they were made from"
        )
    if kind not in CONFIG_MAPPING:
        own = ", and code that comes with a model (auto_map) is never run" if raw.get("auto_map") else ""
        raise SrtError(
            f"{where}: config.json: model_type: transformers {__version__} has no '{kind}'{own}: choose a model of a "
            "family that it has"
        )
    with as_sentence(where):
        config = AutoConfig.from_pretrained(folder, **LOCAL)
    if config.is_encoder_decoder or getattr(config, "is_decoder", None) is False:
        raise SrtError(f"{where}: config.json: '{kind}' has an encoder: choose a decoder-only model")
    if config.get_text_config() is not config:
        raise SrtError(f"{where}: config.json: '{kind}' reads more than text: choose a model of text only")
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    expected = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ if known else None
    named = config.architectures or [expected]
    if expected is None or expected not in named:
        raise SrtError(
            f"{where}: config.json: architectures: {named[0] or kind} is no causal language model"
            + (f" (that of '{kind}' is {expected})" if expected else "")
            + ": choose a checkpoint that predicts the next token"
        )
    return config


def read_tokenizer(folder: Path, where: str) -> Any:
    """The tokenizer of a folder.

    Raises:
        SrtError: it is absent, damaged or does not give back the text that it has encoded.
    """
    from transformers import AutoTokenizer

    with as_sentence(where):
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        said = tokenizer.decode(tokenizer(SAMPLE, add_special_tokens=False)["input_ids"])
    if said.replace(" ", "") != SAMPLE.replace(" ", ""):
        raise SrtError(
            f"{where}: the tokenizer makes '{said}' of '{SAMPLE}', as if its files were missing: add tokenizer.json"
        )
    return tokenizer


def read_model(folder: Path, dtype: Any, where: str, device: Any = "cpu") -> Any:
    """The model of a folder on `device`, in evaluation mode.

    On a CPU, with dtype "auto" (that of the files), the weights are mapped into memory and not copied.

    Raises:
        SrtError: a tensor is missing, unexpected, of another shape, of an integer type or not finite.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(folder, where)
    types = stored_types(folder, where)
    with as_sentence(where), _quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **LOCAL
        )  # fmt: skip
    check_complete(model, info, where)
    for name, parameter in model.named_parameters():
        if types.get(name, "F32") not in FLOATS:
            raise SrtError(
                f"{where}: {name} is stored as {types[name]}: the weights are quantised; use the model that they were "
                "made from"
            )
        if not parameter.numel():
            raise SrtError(f"{where}: {name} has no elements: copy the model again")
    model.to(device).eval()
    _check_finite(model, where)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if config.tie_word_embeddings and head is not None and head.weight is not embedding.weight:
        raise SrtError(
            f"{where}: config.json: tie_word_embeddings is true, but the head has weights of its own: set it to false"
        )
    _mend_generation_config(model, where)
    return model


def check_complete(model: Any, info: dict[str, Any], where: str) -> None:
    """Refuse a model whose weights were not exactly those that its configuration asks for.

    Args:
        info: what `from_pretrained` returns with `output_loading_info`.
    """
    if info["mismatched_keys"]:
        name, stored, needed = min(info["mismatched_keys"])
        raise SrtError(
            f"{where}: {name}{_others(info['mismatched_keys'])} has shape {list(stored)}, but config.json asks for "
            f"{list(needed)}: use the config.json and the weights of one model"
        )
    if info["missing_keys"]:
        raise SrtError(
            f"{where}: the weights lack {min(info['missing_keys'])}{_others(info['missing_keys'])}: copy all files of "
            "the model, or set tie_word_embeddings in its config.json if only the head is missing"
        )
    if info["unexpected_keys"]:
        raise SrtError(
            f"{where}: {min(info['unexpected_keys'])}{_others(info['unexpected_keys'])} is no part of "
            f"{type(model).__name__} as config.json describes it: use the config.json and the weights of one model"
        )


def check_vocabulary(tokenizer: Any, rows: int, where: str) -> None:
    """Refuse a tokenizer with tokens that have no row among the `rows` of the embeddings.

    Rows without a token, to which many models are padded, are allowed: if one is drawn, it has no text.
    """
    ids = {int(i): token for token, i in tokenizer.get_vocab().items()}
    if max(ids) >= rows:
        first = min(i for i in ids if i >= rows)
        raise SrtError(
            f"{where}: the tokenizer's token '{ids[first]}' has number {first}, but the embeddings have {rows} rows: "
            "remove the token, or add rows with `resize_token_embeddings` and train them"
        )
    if rows > max(ids) + 1:
        with as_sentence(where):
            tokenizer.decode([rows - 1])


@contextmanager
def as_sentence(where: str) -> Iterator[None]:
    """Turn what a library raises about the content of files into one sentence."""
    try:
        yield
    except SrtError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__
        raise SrtError(
            f"{where}: cannot be read as a model ({said}): copy or make it again, or choose another"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no table of missing tensors: what is wrong is said in one sentence."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _others(names: Iterable[Any]) -> str:
    more = len(list(names)) - 1
    return f" (and {more} more)" if more else ""


def _check_finite(model: Any, where: str) -> None:
    """One read of all weights, about 2 GB/s on a CPU core; the extremes of a tensor are finite only if all of it is."""
    import torch

    for name, parameter in model.named_parameters():
        if not all(torch.isfinite(extreme) for extreme in torch.aminmax(parameter.detach())):
            raise SrtError(f"{where}: {name} has values that are not finite: copy the model again or choose another")


def _mend_generation_config(model: Any, where: str) -> None:
    """Keep only the tokens of a generation configuration that `save_pretrained` would refuse.

    Its other settings have no effect: engines get theirs from the configuration of the run.
    """
    from transformers import GenerationConfig

    given = model.generation_config
    try:
        given.validate(strict=True)
    except ValueError as error:
        tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = GenerationConfig(**{key: getattr(given, key) for key in tokens})
        reason = next((line for line in str(error).splitlines() if line.startswith("- ")), str(error)).strip("- ")
        _log_once(f"{where}: generation_config.json contradicts itself, so only its tokens are used ({reason})")


@cache
def _log_once(message: str) -> None:
    log(message)
