"""Regular expressions for wildcards: exact, so that no path is read in two ways, and short.

Snakemake puts the text of a wildcard's constraint into every path with that wildcard and reads it for every job.
"""

from __future__ import annotations

from collections.abc import Mapping


def runs_pattern(follows: Mapping[str, str]) -> str:
    """A regular expression of exactly these runs `{id}-s{seed}`, each with the expression that has to follow it.

    Runs with the same seeds and the same rest share one alternative.
    """
    seeds: dict[tuple[str, str], list[str]] = {}
    for run, rest in follows.items():
        name, _, seed = run.rpartition("-s")
        seeds.setdefault((name, rest), []).append(seed)
    names: dict[tuple[str, str], list[str]] = {}
    for (name, rest), numbers in seeds.items():
        names.setdefault(("|".join(numbers), rest), []).append(name)
    return "|".join(f"(?:{'|'.join(ids)})-s(?:{numbers}){rest}" for (numbers, rest), ids in names.items())
