"""Key `model`: another model, of a folder or of the hub, in place of the one base model that a configuration uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

from srt.config.base import ConfigError
from srt.config.models import HubModel, LocalModel, ModelBase
from srt.config.root import Config

_REPO = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>.*))?")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")  # one of them is in every tokenizer


def with_replaced_model(config: Config, root: Path) -> Config:
    """The configuration with the model of key `model`; the same configuration without the key.

    The entry keeps its id and the keys that all kinds of entries have (`ModelBase`): prompts, lengths, sizes of jobs.

    Args:
        root: the folder from which a relative path starts.

    Raises:
        ConfigError: no such model, or not exactly one model is in use.
    """
    if config.model is None:
        return config
    path, found = ["model"], _in_use(config)
    if len(found) != 1:
        raise ConfigError(
            path,
            f"takes the place of one base model, but this configuration uses {len(found)} ({', '.join(found)}): remove "
            "the key, and change their entries under models",
        )
    kept = {key: getattr(config.models[found[0]], key) for key in ModelBase.model_fields}
    value, hub = os.path.normpath(config.model), _REPO.fullmatch(config.model)
    entry: LocalModel | HubModel
    if (root / value).is_dir():
        _check_folder(root / value, value, path)
        entry = LocalModel(source="local", path=value, **kept)
    elif hub is None:
        raise ConfigError(
            path, f"there is no folder '{value}': correct the path, or name a model of the hub as owner/name@COMMIT"
        )
    elif not re.fullmatch(r"[0-9a-f]{40}", hub["revision"] or ""):
        what = (
            "lacks its commit" if hub["revision"] is None else f"has no commit of 40 hex digits ('{hub['revision']}')"
        )
        raise ConfigError(
            path,
            f"'{value}' is no folder here, and as a model of the hub it {what}: write {hub['repo']}@COMMIT with what "
            f"`git ls-remote https://huggingface.co/{hub['repo']} HEAD` prints",
        )
    else:
        entry = HubModel(source="hub", repo=hub["repo"], revision=hub["revision"], **kept)
    return config.model_copy(update={"model": value, "models": {**config.models, found[0]: entry}})


def _in_use(config: Config) -> list[str]:
    """The base models that runs, curricula, evaluations and figures use, in the order of `models`."""
    used = {name for run in config.runs.values() for name in (run.model, config.ranking_model(run))}
    used |= {*config.evaluated_models(), *(figure.model for figure in config.figures.values())}
    return [name for name in config.models if name in used]


def _check_folder(folder: Path, shown: str, path: list[str]) -> None:
    """Refuse a folder without the files of a model; rule `base_model` looks into them (docs/base_models.md)."""
    if not (folder / "config.json").is_file():
        raise ConfigError(path, f"{shown} has no config.json: name a folder in Hugging Face format")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            path, f"{shown} has no .safetensors file: save the model with `save_pretrained` (pickles are refused)"
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ConfigError(
            path, f"{shown} has no tokenizer, such as tokenizer.json: save the model's with `save_pretrained` there"
        )
