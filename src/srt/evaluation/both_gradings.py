"""The start and the peak of a run under both gradings: a box demanded, or the whole response read (docs/answers.md).

Where a box is demanded, a base model that often forgets it looks worse than it is, and a gain may be one of format.
Only the responses that these numbers need are graded again, and nothing is sampled again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.answers import Grader
from srt.artefacts.paths import Paths
from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.evaluation.scoring import Problem, read_samples, score_groups
from srt.metrics.intervals import HasInterval, Ratio, crossed, ratio_of
from srt.metrics.peaks import choose, widened

COLUMNS = ["run", "label", "grading", "moment", "steps", "datasets", "seeds", "problems", "n", "value", "lo", "hi"]
Cells = dict[str, np.ndarray]  # pass rates [S, P] by data set
Rates = Callable[[str, str], pd.Series]  # of a checkpoint on a data set, by problem


def both_gradings(spec: Mapping[str, Any], problems: Mapping[tuple[str, str], Problem], grader: Grader) -> pd.DataFrame:
    """Three rows for each run and grading: avg@n of the start, avg@n of the peak, peak over start; 95 % intervals.

    The peak is chosen by the grading of the groups tables, on other problems and seeds than it is read on
    (`srt.metrics.peaks`). `steps` are those where it is read, the same for both gradings.

    Args:
        spec: of `srt.artefacts.gradings.resolve_gradings`.
        problems: true answers (`srt.evaluation.scoring.read_references`).
        grader: of the preset that the groups tables do not have.
    """
    paths, rows = Paths(spec["results"]), []
    graded: dict[tuple[str, str], pd.Series] = {}
    for entry in spec["runs"]:
        run = _Run(paths, entry)

        def again(checkpoint: str, dataset: str, suites: Mapping[str, str] = entry["suites"]) -> pd.Series:
            if (checkpoint, dataset) not in graded:
                path = paths.samples(checkpoint, suites[dataset])
                graded.update({(checkpoint, name): rates for name, rates in regrade(path, problems, grader).items()})
            return graded[checkpoint, dataset]

        for preset, rates in ((spec["preset"], run.rates), (grader.preset, again)):
            start, peak = run.start(rates), run.peak(rates)
            for moment, steps, number in _moments(start, peak, run):
                lo, hi = number.interval() if number else (np.nan, np.nan)
                rows.append(
                    {
                        "run": entry["run"], "label": entry["label"], "grading": preset, "moment": moment,
                        "steps": steps, "datasets": "+".join(entry["suites"]), "seeds": len(entry["checkpoints"]),
                        "problems": sum(len(ids) for ids in run.ids.values()), "n": run.n,
                        "value": number.value if number else np.nan, "lo": lo, "hi": hi,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _moments(start: Cells, peak: Cells, run: _Run) -> list[tuple[str, str, HasInterval | None]]:
    """Names, steps and numbers; there is no ratio where no answer is right."""
    steps = " ".join(str(step) for step in sorted({run.steps[place] for place in run.chosen.flat}))
    one = {name: cells[:1] for name, cells in start.items()} if run.one_start else start
    best, ratio = widened(crossed(peak, share=True)), None
    if crossed(start).value > 0 and best.value > 0:
        plain = ratio_of(peak, start)
        ratio = Ratio(plain.value, widened(plain.log))
    return [("start", "0", crossed(one, share=True)), ("peak", steps, best), ("peak over start", steps, ratio)]


def regrade(samples: str | Path, problems: Mapping[tuple[str, str], Problem], grader: Grader) -> dict[str, pd.Series]:
    """Pass rates by data set and problem of a samples table, for the data sets of `problems`."""
    wanted = {dataset for dataset, _ in problems}
    groups = [group for group in read_samples(samples) if group.dataset in wanted]
    missing = [group for group in groups if (group.dataset, group.problem_id) not in problems]
    if missing:
        raise SrtError(
            f"{samples}: problem '{missing[0].problem_id}' of '{missing[0].dataset}' is in no table of problems: "
            "sample again"
        )
    _, rows = score_groups(grader, groups, [problems[group.dataset, group.problem_id] for group in groups])
    table = pd.DataFrame(rows, columns=["dataset", "problem_id", "pass_rate"])
    return {
        str(name): part.set_index("problem_id")["pass_rate"].astype(float) for name, part in table.groupby("dataset")
    }


class _Run:
    """One run of the spec: its graded checkpoints, and where its peak is."""

    def __init__(self, paths: Paths, entry: Mapping[str, Any]) -> None:
        self.paths, self.steps, self.checkpoints = paths, entry["steps"], entry["checkpoints"]
        self.suites = entry["suites"]
        self.one_start = len({seed[0] for seed in self.checkpoints}) == 1
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, checkpoint: str, dataset: str) -> pd.DataFrame:
        """The groups of a checkpoint on a data set, by problem."""
        path = self.paths.groups(checkpoint, self.suites[dataset])
        if path not in self._tables:
            self._tables[path] = read_parquet(path, ["dataset", "problem_id", "n", "pass_rate"]).to_pandas()
        table = self._tables[path]
        return table[table["dataset"] == dataset].set_index("problem_id")

    def rates(self, checkpoint: str, dataset: str) -> pd.Series:
        """Pass rates under the grading of the groups tables."""
        return self.table(checkpoint, dataset)["pass_rate"].astype(float)

    @cached_property
    def ids(self) -> dict[str, pd.Index]:
        """The problems of each data set, in one order."""
        return {dataset: self.table(self.checkpoints[0][0], dataset).index for dataset in self.suites}

    @property
    def n(self) -> int:
        """Samples of a problem."""
        return int(self.table(self.checkpoints[0][0], next(iter(self.suites)))["n"].iloc[0])

    @cached_property
    def chosen(self) -> np.ndarray:
        """Place [S, 2] of the peak among the steps, for each seed and half of the problems."""
        values = {
            dataset: np.array(
                [[self.rates(each, dataset).loc[ids].to_numpy() for each in seed[1:]] for seed in self.checkpoints]
            )
            for dataset, ids in self.ids.items()
        }
        seeds = range(len(self.checkpoints))
        return np.array([[int(choose(values, seed, half)) for half in (0, 1)] for seed in seeds])

    def start(self, rates: Rates) -> Cells:
        """Pass rates [S, P] where the run starts."""
        return {
            dataset: np.array([rates(seed[0], dataset).loc[ids].to_numpy() for seed in self.checkpoints])
            for dataset, ids in self.ids.items()
        }

    def peak(self, rates: Rates) -> Cells:
        """Pass rates [S, P] at the peak."""
        cells = {dataset: np.empty((len(self.checkpoints), len(ids))) for dataset, ids in self.ids.items()}
        for (seed, half), place in np.ndenumerate(self.chosen):
            for dataset, ids in self.ids.items():
                at_peak = rates(self.checkpoints[seed][1 + place], dataset).loc[ids].to_numpy()
                cells[dataset][seed, half::2] = at_peak[half::2]
        return cells
