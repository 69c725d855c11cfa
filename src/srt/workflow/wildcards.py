"""Regular expressions for wildcards: exact, so that no path is read in two ways, and short.

Snakemake puts the text of a wildcard's constraint into every path with that wildcard and reads it for every job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NOTHING = "(?!)"  # matches no text: an empty pattern would match an empty name


def runs_pattern(runs: Iterable[str]) -> str:
    """Exactly these runs `{id}-s{seed}`; ids with the same seeds share one alternative."""
    seeds: dict[str, str] = {}
    for run in runs:
        name, _, seed = run.rpartition("-s")
        seeds[name] = f"{seeds[name]}|{seed}" if name in seeds else seed
    return "|".join(f"(?:{'|'.join(names)})-s(?:{numbers})" for numbers, names in _by_value(seeds).items()) or NOTHING


def checkpoints_pattern(steps: Mapping[str, int]) -> str:
    """Exactly one checkpoint `{run}/step-{n}` of each run; runs with the same step share one alternative."""
    return "|".join(f"(?:{runs_pattern(runs)})/step-{step}" for step, runs in _by_value(steps).items()) or NOTHING


def _by_value(entries: Mapping[str, Any]) -> dict[Any, list[str]]:
    """The keys of each value, in their order."""
    keys: dict[Any, list[str]] = {}
    for key, value in entries.items():
        keys.setdefault(value, []).append(key)
    return keys
