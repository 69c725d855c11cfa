"""The user's own functions exist, and ask only for what they may see; their files are parsed, and not run."""

from __future__ import annotations

from collections.abc import Iterator

from srt.common.errors import SrtError
from srt.common.own_code import Source, check_function, is_own
from srt.config.base import ConfigError
from srt.config.root import Config


def check_own_code(config: Config) -> None:
    """Raise a `ConfigError` for the first function that is not there, or whose parameters do not fit."""
    for path, kind, reference in _functions(config):
        try:
            source = check_function(kind, reference, config.code_folders)
        except SrtError as error:
            raise ConfigError(path, str(error)) from None
        if kind == "reward":
            _check_labels(config, path[1], reference, source)


def _functions(config: Config) -> Iterator[tuple[list[str], str, str]]:
    """The keys, the kind and the reference of each function."""
    if is_own(config.scoring.extractor):
        yield ["scoring", "extractor"], "extractor", config.scoring.extractor
    for name, model in config.models.items():
        if model.prompt is not None:
            yield ["models", name, "prompt"], "prompt", model.prompt
    for name, dataset in config.datasets.items():
        if is_own(dataset.task or ""):
            yield ["datasets", name, "task"], "task", str(dataset.task)
        if reader := getattr(dataset, "reader", None):
            yield ["datasets", name, "reader"], "reader", reader
    for name, run in config.runs.items():
        if is_own(run.reward):
            yield ["runs", name, "reward"], "reward", run.reward


def _check_labels(config: Config, name: str, reference: str, source: Source) -> None:
    """A reward asks for labels exactly if its run says which ones it is given."""
    labels, asks = config.runs[name].reward_labels, "label" in source.parameters
    if asks and labels is None:
        raise ConfigError(
            ["runs", name, "reward"],
            f"{reference} asks for label, and this run gives none: set reward_labels to ground_truth or "
            "offline_labels, or remove the parameter",
        )
    if labels is not None and not asks:
        raise ConfigError(
            ["runs", name, "reward_labels"],
            f"{reference} has no parameter label and must not be given any: remove reward_labels, or add the parameter",
        )
