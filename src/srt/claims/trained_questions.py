"""Test questions of a claim that its runs were trained on: a supported claim must hold without them as well.

The audit knows them (`srt.audit.audit_tables`): exact matches, and near ones with the same numbers. A near match with
other numbers is another question: all sums written in one sentence are near matches of each other. A run that learns
from its own votes on the very test set that the claim names is test-time training, which the configuration asks for:
nothing is left out for it. A run that learns true answers of its test set has no question left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import read_parquet

PAIRS = "pairs.parquet"  # of the audit, beside its table of clean rows


@dataclass(frozen=True)
class Seen:
    """Questions of a test set that are in training sets of a claim's runs."""

    dataset: str
    ids: frozenset[str]
    total: int
    training: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.ids)} of {self.total} questions of {self.dataset} are in {' and '.join(self.training)}"


def read_clean(spec: dict[str, Any], partial: bool) -> pd.DataFrame | None:
    """Which test rows are in which training set, as columns train, test, problem_id and clean (not in it).

    None if the spec names no audit, or with `partial` if there is none yet.
    """
    path = spec.get("clean")
    if path is None or (partial and not Path(path).exists()):
        return None
    clean = read_parquet(path, ["train", "test", "problem_id", "clean"]).to_pandas()
    pairs = read_parquet(Path(path).with_name(PAIRS), ["train", "test", "test_id", "kind", "same_numbers"]).to_pandas()
    pairs = pairs[(pairs["kind"] == "exact") | pairs["same_numbers"]]
    same = set(zip(pairs["train"], pairs["test"], pairs["test_id"], strict=True))
    columns = zip(clean["train"], clean["test"], clean["problem_id"], clean["clean"], strict=True)
    # a set that is compared with itself is in no pair
    clean["clean"] = [good or (row[0] != row[1] and (*row,) not in same) for *row, good in columns]
    return clean


def seen(spec: dict[str, Any], options: dict[str, Any], clean: pd.DataFrame) -> list[Seen]:
    """The questions of a claim's test sets that its runs were trained on, by test set; none where there are none."""
    runs = [options.get("run"), options.get("against"), *(options.get("also") or ())]
    trained: dict[str, bool] = {}  # by training set: whether its true answers were learned from
    for run in filter(None, runs):
        for name, labelled in spec["runs"][run].get("trained_on", {}).items():
            trained[name] = trained.get(name, False) or labelled
    found = []
    for dataset in dict.fromkeys([*(options.get("datasets") or ()), *(options.get("against_datasets") or ())]):
        rows = clean[clean["test"] == dataset]
        counted = [name for name, labelled in trained.items() if name != dataset or labelled]
        if missing := set(counted) - set(rows["train"]):
            raise SrtError(f"claims: the audit has not compared '{sorted(missing)[0]}' with '{dataset}': rerun it")
        dirty = rows[rows["train"].isin(counted) & ~rows["clean"]]
        if len(dirty):
            training = tuple(name for name in counted if name in set(dirty["train"]))
            found.append(Seen(dataset, frozenset(dirty["problem_id"]), rows["problem_id"].nunique(), training))
    return found
