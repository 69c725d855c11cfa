"""The tables behind a claim as arrays, with bootstrap replicates that its estimators share.

A replicate draws problems within each test set, and the seeds of each run. All runs see the same drawn problems, so
differences are paired; the seeds of different runs are drawn independently. With one run the draws are those of
`srt.metrics.intervals.mean_interval`: a claim's interval equals the figure's band, to the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.artefacts.paths import Paths
from srt.claims.resolve import checkpoints, stored, suite_of
from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.metrics.intervals import N_BOOT, SEED_OF_SEEDS, draw_counts

COLUMNS = [
    "dataset", "problem_id", "n", "parsed", "majority", "consistency", "consistency_all", "pass_rate",
    "majority_correct",
]  # fmt: skip
METRICS = {"avg": "pass_rate", "maj": "majority_correct", "consistency": "consistency_all", "parsed": "parsed_share"}
_SEED_OF_STEPS = 20_011  # keeps the draws of steps apart from those of problems and of seeds


class Undecided(Exception):
    """Raised when the tables cannot decide a claim; the message says why."""


@dataclass(frozen=True)
class Curve:
    """A metric against the step. T evaluated steps (0 first), S seeds, B replicates.

    value [T], replicates [B, T]: means over data sets, problems and seeds. by_seed [S, T], by_seed_replicates
    [B, S, T]: the same for each seed. weights [B, S]: the share of each seed in a replicate; rows sum to 1.
    """

    run: str
    steps: np.ndarray
    value: np.ndarray
    replicates: np.ndarray
    by_seed: np.ndarray
    by_seed_replicates: np.ndarray
    weights: np.ndarray
    problems: int
    label: str

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)


class Evidence:
    """The tables of all claims, each read once. `partial`: a missing file makes its claims undecided, not an error."""

    def __init__(self, spec: dict[str, Any], partial: bool = False) -> None:
        self.spec, self.partial = spec, partial
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
                str(name): part.set_index("problem_id") for name, part in table.groupby("dataset", sort=False)
            }
        parts = self._files[path]
        if dataset not in parts:
            raise SrtError(f"{path} has no data set '{dataset}' (it has: {', '.join(parts)}): evaluate it again")
        if parts[dataset].index.has_duplicates:
            raise SrtError(f"{path}: a problem of '{dataset}' has two rows: score it again")
        return parts[dataset]

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
    """One claim's view of the evidence: it numbers data sets and runs, so that paired values share their draws."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._datasets: dict[str, int] = {}
        self._runs: dict[str, int] = {}

    def problem_counts(self, dataset: str, problems: int) -> np.ndarray:
        """How often each problem is drawn: float [B, P]."""
        position = self._datasets.setdefault(dataset, len(self._datasets))
        return draw_counts(problems, position).astype(np.float64)

    def seed_weights(self, run: str, seeds: int) -> np.ndarray:
        """Weight of each seed in each replicate: float [B, S], rows sum to 1."""
        position = self._runs.setdefault(run, len(self._runs))
        return draw_counts(seeds, SEED_OF_SEEDS + position).astype(np.float64) / seeds

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
        every = self.evidence.spec["runs"][run]["steps"]
        steps = np.array([0, *(every if suite is None else [step or every[-1]])])
        value = replicates = 0.0
        problems = 0
        for dataset in datasets:
            frames = self.evidence.frames(run, dataset, suite, step)
            ids = frames[0][0].index
            if other is not None:
                theirs = self.evidence.frames(other, dataset)[0][0].index
                # one order for both runs: otherwise the same draw would be of different problems
                ids = pd.Index(sorted(set(ids) & set(theirs))) if not ids.equals(theirs) else ids
            if not len(ids):
                raise Undecided(f"runs '{run}' and '{other}' have no problem of '{dataset}' in common")
            values = np.array(
                [[part.loc[ids, METRICS[metric]].to_numpy(np.float64) for part in seed] for seed in frames]
            )
            counts = self.problem_counts(dataset, len(ids))
            value = value + values.mean(axis=2) / len(datasets)
            flat = values.reshape(-1, len(ids)) / len(ids)
            replicates = replicates + (counts @ flat.T).reshape(N_BOOT, *values.shape[:2]) / len(datasets)
            problems += len(ids)
        weights = self.seed_weights(run, len(value))
        n = self.n(run, datasets, suite, step)
        label = {"avg": f"avg@{n}", "maj": f"maj@{n}"}
        return Curve(
            run=run,
            steps=steps,
            value=value.mean(axis=0),
            replicates=np.einsum("bs,bst->bt", weights, replicates),
            by_seed=value,
            by_seed_replicates=replicates,
            weights=weights,
            problems=problems,
            label=label.get(metric, {"consistency": "majority share", "parsed": "parsed share"}.get(metric, metric)),
        )
