"""The tables behind a claim as arrays [seeds, steps, problems], read once and shared by its estimators.

All runs of a claim have their problems in one order, so that differences are paired by problem. Two runs with the same
seeds are paired by seed as well; other seeds are independent (`srt.metrics.intervals.crossed`). Numbers that are not
means, such as steps, resample the problems: all runs see the same drawn problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.artefacts.paths import Paths
from srt.claims.resolve import checkpoints, stored, suite_of
from srt.claims.trained_questions import Seen
from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.metrics.intervals import N_BOOT, draw_counts

COLUMNS = [
    "dataset", "problem_id", "n", "parsed", "majority", "consistency", "consistency_all", "pass_rate",
    "majority_correct",
]  # fmt: skip
METRICS = {"avg": "pass_rate", "maj": "majority_correct", "consistency": "consistency_all", "parsed": "parsed_share"}
_SEED_OF_STEPS = 20_011  # keeps the draws of steps apart from those of problems


class Undecided(Exception):
    """Raised when the tables cannot decide a claim; the message says why."""


@dataclass(frozen=True)
class Curve:
    """A metric against the step. T evaluated steps (0 first), S seeds, P problems of a data set, B replicates.

    values: float [S, T, P] by data set; each data set weighs the same. draws: by data set, which draws of its problems
    it shares with the claim's other runs. instances: names of the seeds' runs. one_start: all seeds start from the same
    checkpoint.
    """

    run: str
    steps: np.ndarray
    values: dict[str, np.ndarray]
    instances: tuple[str, ...]
    one_start: bool
    label: str
    n: str
    draws: dict[str, int]

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.instances)

    @property
    def problems(self) -> int:
        """Number of problems of all data sets."""
        return sum(each.shape[-1] for each in self.values.values())

    @cached_property
    def by_seed(self) -> np.ndarray:
        """Means over data sets and problems [S, T]."""
        return np.mean([each.mean(axis=2) for each in self.values.values()], axis=0)

    @cached_property
    def value(self) -> np.ndarray:
        """Means over data sets, problems and seeds [T]."""
        return self.by_seed.mean(axis=0)

    @cached_property
    def by_seed_replicates(self) -> np.ndarray:
        """`by_seed` on resampled problems [B, S, T]."""
        total = np.zeros((N_BOOT, *self.by_seed.shape))
        for name, each in self.values.items():
            flat = each.reshape(-1, each.shape[2]) / each.shape[2]
            counts = draw_counts(each.shape[2], self.draws[name]).astype(np.float64)
            total += (counts @ flat.T).reshape(total.shape) / len(self.values)
        return total

    def index(self, moment: int | str) -> int:
        """Place of a step, `base` or `last` among the steps; undecided where the run is not evaluated there."""
        step = int({"base": 0, "last": int(self.steps[-1])}.get(str(moment), moment))
        found = np.flatnonzero(self.steps == step)
        if len(found):
            return int(found[0])
        if step > self.steps[-1]:
            raise Undecided(f"run {self.run} stops at step {self.steps[-1]}, before step {step}")
        near = int(np.searchsorted(self.steps, step))
        raise Undecided(
            f"run {self.run} is not evaluated at step {step}, only at {self.steps[near - 1]} and {self.steps[near]}"
        )

    def at(self, place: int | np.ndarray) -> dict[str, np.ndarray]:
        """Values [S, P] of one step, or [S, T', P] of several, by data set."""
        return {name: each[:, place] for name, each in self.values.items()}

    @property
    def seed_names(self) -> tuple[str, ...]:
        """What tells the seeds of a run apart, so that those of another run can be paired with them."""
        return _seed_names(self.instances)


def _seed_names(instances: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.rpartition("-s")[2] for name in instances)


class Evidence:
    """The tables of all claims, each read once. `partial`: a missing file makes its claims undecided, not an error.

    `trained`: questions that are left out.
    """

    def __init__(self, spec: dict[str, Any], partial: bool = False, trained: Sequence[Seen] = ()) -> None:
        self.spec, self.partial = spec, partial
        self._trained = {one.dataset: one.ids for one in trained}
        self.paths = Paths(spec["results"])
        self._files: dict[str, dict[str, pd.DataFrame]] = {}
        self._metrics: dict[str, pd.DataFrame] = {}

    def frames(
        self, run: str, dataset: str, suite: str | None = None, step: int | None = None
    ) -> list[list[pd.DataFrame]]:
        """Groups of a data set [seeds][1 + steps], one row per problem; all points hold the same problems and one n.

        With `suite`, the samples are those of that suite, at step 0 and `step` (None: the last) alone; without it,
        those of the run's first suite with the data set.
        """
        entry = self.spec["runs"][run]
        if suite is not None:
            entry = {**entry, "steps": [step or entry["steps"][-1]]}
        suite = suite or suite_of(entry, dataset)
        if suite is None:
            raise SrtError(f"claims: run '{run}' is not evaluated on '{dataset}': add a suite of it to the run")
        suite = stored(entry, suite)
        rows = [[self._part(self.paths.groups(name, suite), dataset) for name in seed] for seed in checkpoints(entry)]
        first = rows[0][0]
        for part in (part for seed in rows for part in seed):
            if part.index.tolist() != first.index.tolist():
                odd = sorted(set(part.index) ^ set(first.index)) or ["their order"]
                raise SrtError(
                    f"claims: checkpoints of run '{run}' were evaluated on different problems of '{dataset}' "
                    f"({odd[0]}): remake the older ones"
                )
            if set(part["n"]) != set(first["n"]) or part["n"].nunique() != 1:
                raise SrtError(
                    f"claims: checkpoints of run '{run}' have different numbers of samples on '{dataset}': sample again"
                )
        return rows

    def _part(self, path: str, dataset: str) -> pd.DataFrame:
        if path not in self._files:
            if self.partial and not Path(path).exists():
                raise Undecided(f"the table {path} is not made yet")
            table = read_parquet(path, COLUMNS).to_pandas()
            table["parsed_share"] = table["parsed"] / table["n"]
            self._files[path] = {
                str(name): self._untrained(str(name), part.set_index("problem_id"))
                for name, part in table.groupby("dataset", sort=False)
            }
        parts = self._files[path]
        if dataset not in parts:
            raise SrtError(f"{path} has no data set '{dataset}' (it has: {', '.join(parts)}): evaluate it again")
        if parts[dataset].empty:
            raise Undecided(f"every question of {dataset} was trained on")
        if parts[dataset].index.has_duplicates:
            raise SrtError(f"{path}: a problem of '{dataset}' has two rows: score it again")
        return parts[dataset]

    def _untrained(self, dataset: str, part: pd.DataFrame) -> pd.DataFrame:
        return part[~part.index.isin(self._trained[dataset])] if dataset in self._trained else part

    def training(self, run: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """A training metric: steps [T] that all seeds have, values [S, T]."""
        series = []
        for instance in self.spec["runs"][run]["instances"]:
            path = self.paths.run_metrics(instance)
            if path not in self._metrics:
                if self.partial and not Path(path).exists():
                    raise Undecided(f"the table {path} is not made yet")
                self._metrics[path] = read_parquet(path).to_pandas().set_index("step").sort_index()
            frame = self._metrics[path]
            if column not in frame or not np.isfinite(frame[column].to_numpy(float)).all():
                raise Undecided(f"the table {path} has no '{column}' at every step")
            series.append(frame[column].astype(float))
        wide = pd.concat(series, axis=1, join="inner").sort_index()
        return wide.index.to_numpy(), wide.to_numpy().T

    def metrics_frame(self, run: str) -> list[pd.DataFrame]:
        """All training metrics of each seed, one row per step, with the column `step`."""
        self.training(run, "reward")
        return [
            self._metrics[self.paths.run_metrics(instance)].reset_index()
            for instance in self.spec["runs"][run]["instances"]
        ]


class View:
    """One claim's view of the evidence: it numbers data sets, so that paired values share their draws."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._datasets: dict[str, int] = {}

    def seed_names(self, run: str) -> tuple[str, ...]:
        """What tells the seeds of a run apart."""
        return _seed_names(self.evidence.spec["runs"][run]["instances"])

    def step_weights(self, window: int, which: int) -> np.ndarray:
        """Weight of each step of a window in each replicate: float [B, window], rows sum to 1."""
        return draw_counts(window, _SEED_OF_STEPS + which).astype(np.float64) / window

    def n(self, run: str, datasets: Sequence[str], suite: str | None = None, step: int | None = None) -> str:
        """The n of avg@n, from the data; "8/32" where data sets differ."""
        sizes = {int(self.evidence.frames(run, dataset, suite, step)[0][0]["n"].iloc[0]) for dataset in datasets}
        return "/".join(map(str, sorted(sizes)))

    def curve(
        self, run: str, datasets: Sequence[str], metric: str = "avg", other: str | None = None,
        suite: str | None = None, step: int | None = None,
    ) -> Curve:  # fmt: skip
        """The metric of a run, mean over the data sets.

        With `other`, only problems that both runs have: each leaves out prompts that are too long for its model. With
        `suite`, the samples of that suite, at step 0 and `step` (None: the last) alone.
        """
        entry = self.evidence.spec["runs"][run]
        every = entry["steps"]
        steps = np.array([0, *(every if suite is None else [step or every[-1]])])
        values, draws = {}, {}
        for dataset in datasets:
            frames = self.evidence.frames(run, dataset, suite, step)
            ids = frames[0][0].index
            if other is not None:
                theirs = self.evidence.frames(other, dataset)[0][0].index
                # one order for both runs: otherwise the same draw would be of different problems
                ids = pd.Index(sorted(set(ids) & set(theirs))) if not ids.equals(theirs) else ids
            if not len(ids):
                raise Undecided(f"runs '{run}' and '{other}' have no problem of '{dataset}' in common")
            values[dataset] = np.array(
                [[part.loc[ids, METRICS[metric]].to_numpy(np.float64) for part in seed] for seed in frames]
            )
            draws[dataset] = self._datasets.setdefault(dataset, len(self._datasets))
        n = self.n(run, datasets, suite, step)
        label = {"avg": f"avg@{n}", "maj": f"maj@{n}", "consistency": "majority share", "parsed": "parsed share"}
        return Curve(
            run, steps, values, tuple(entry["instances"]), len(set(entry["starts"])) == 1, label[metric], n, draws
        )
