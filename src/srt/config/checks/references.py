"""References: an id that one section names is an entry of another."""

from __future__ import annotations

from collections.abc import Sequence

from srt.common.errors import SrtError, nearest
from srt.config.base import ConfigError
from srt.config.evaluation import SEED_MARK, SETTINGS_MARK
from srt.config.root import Config


def require(config: Config, section: str, key: str, path: Sequence[str]) -> None:
    """Raise a `ConfigError` unless `section` has the entry `key`; `path` is the path of keys that names it."""
    known = getattr(config, section)
    if key not in known:
        kind = {"datasets": "data set"}.get(section, section[:-1])
        raise ConfigError(path, f"unknown {kind} '{key}'{nearest(key, known)}")


def require_suite(config: Config, suite: str, path: Sequence[str]) -> list[str]:
    """The data sets of a suite; raise a `ConfigError` if there is no such suite, or if one of them has no answers."""
    try:
        for mark in (SETTINGS_MARK, SEED_MARK):
            if mark in suite:
                raise SrtError(f"unknown suite '{suite}': name the suite, without {mark} and what follows")
        members = config.members(suite)
    except SrtError as error:
        raise ConfigError(path, str(error)) from None
    for name in members:
        require_answers(config, name, "an evaluation", path)
    return members


def require_answers(config: Config, dataset: str, reader: str, path: Sequence[str]) -> None:
    """Raise a `ConfigError` if a data set is unlabelled although `reader` needs true answers."""
    if not config.datasets[dataset].labelled:
        raise ConfigError(
            path,
            f"{reader} needs true answers, and data set '{dataset}' has none (`columns: {{answer: null}}`): choose "
            "another data set, or name its column of answers",
        )


def refuse_repeat(values: Sequence[str], position: int, what: str, path: Sequence[str]) -> None:
    """Raise a `ConfigError` if the value at `position` is also before it."""
    if values[position] in values[:position]:
        raise ConfigError(path, f"{what} '{values[position]}' appears twice: remove one")
