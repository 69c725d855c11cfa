"""From groups files and training metrics to numbers, aligned over seeds and steps. No matplotlib here.

A `FigureData` object reads each file once and requires the same problems and the same n per data set in all of them:
points of a curve that were evaluated on different problems could not be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.common.io import read_parquet
from srt.figures.spec import Point, Series, Spec
from srt.metrics.alarm import COLUMNS as ALARM_COLUMNS
from srt.metrics.alarm import collapse_alarm
from srt.metrics.intervals import mean_interval, ratio_interval

GROUP_COLUMNS = [
    "dataset", "problem_id", "reference", "n", "parsed", "majority", "majority_count", "consistency", "consistency_all",
    "pass_rate", "majority_correct",
]  # fmt: skip
VALUE_COLUMN = {"avg": "pass_rate", "maj": "majority_correct"}
SHARES = {"parsed": "share with an answer", "correct_parsed": "correct among answers"}


class FigureData:
    """The files of one figure, each read once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._files: dict[str, dict[str, pd.DataFrame]] = {}
        self._metrics: dict[tuple[str, ...], pd.DataFrame] = {}
        self._problems: dict[str, tuple[str, list[str]]] = {}
        self._n: dict[str, tuple[str, int]] = {}

    def file(self, path: str) -> dict[str, pd.DataFrame]:
        """The groups of one file by data set, in the file's order of problems."""
        if path not in self._files:
            table = read_parquet(path, GROUP_COLUMNS).to_pandas()
            parts = {str(name): part.reset_index(drop=True) for name, part in table.groupby("dataset", sort=False)}
            for name, part in parts.items():
                twice = part["problem_id"][part["problem_id"].duplicated()]
                if len(twice):
                    raise SrtError(f"{path}: problem '{twice.iloc[0]}' of '{name}' has two rows; score it again")
            self._files[path] = parts
        return self._files[path]

    def groups(self, paths: Iterable[str], dataset: str) -> pd.DataFrame:
        """The groups of `dataset`, one row per problem, from the one of `paths` that holds it.

        Raises SrtError when none of the files has the data set, two have it, or its problems or its n differ from
        those of the figure's other files.
        """
        paths = tuple(paths)
        holders = [path for path in paths if dataset in self.file(path)]
        if not holders:
            present = sorted({name for path in paths for name in self.file(path)})
            raise SrtError(
                f"{self.spec.where()}: data set '{dataset}' is not in {', '.join(paths)}, which has "
                f"{', '.join(present) or 'no rows'}{nearest(dataset, present) if present else ''}; evaluate it there "
                "or take it out of 'datasets'"
            )
        if len(holders) > 1:
            both = " and ".join(holders[:2])
            raise SrtError(f"{self.spec.where()}: data set '{dataset}' is in both {both}; name one")
        part = self.file(holders[0])[dataset]
        return self._aligned(holders[0], dataset, part)

    def _aligned(self, path: str, dataset: str, part: pd.DataFrame) -> pd.DataFrame:
        ids = part["problem_id"].tolist()
        first, known = self._problems.setdefault(dataset, (path, ids))
        if ids != known:
            if set(ids) != set(known):
                other = sorted(set(ids) ^ set(known))[0]
                raise SrtError(
                    f"{self.spec.where()}: {path} and {first} hold different problems of '{dataset}' (one lacks "
                    f"'{other}'); evaluate both on the same data"
                )
            part = part.set_index("problem_id").loc[known].reset_index()
        sizes = sorted(set(part["n"].tolist()))
        if len(sizes) != 1:
            raise SrtError(f"{path}: problems of '{dataset}' have {sizes[0]} to {sizes[-1]} samples; sample it again")
        first, n = self._n.setdefault(dataset, (path, int(sizes[0])))
        if n != sizes[0]:
            raise SrtError(
                f"{self.spec.where()}: '{dataset}' has {sizes[0]} samples per problem in {path} but {n} in {first}; "
                "evaluate both with one n"
            )
        return part

    def n_label(self, datasets: Sequence[str]) -> str:
        """The n of avg@n and maj@n, from the data ("8/32" where data sets differ); call after they were read."""
        return "/".join(str(n) for n in sorted({self._n[dataset][1] for dataset in datasets}))

    def metric_label(self, datasets: Sequence[str], metric: str | None = None) -> str:
        """ "avg@32" or "maj@32", with the n of the data; a share's name for `parsed` and `correct_parsed`."""
        metric = metric or self.spec.metric
        return SHARES.get(metric) or f"{metric}@{self.n_label(datasets)}"

    def values(self, points: Sequence[Point], dataset: str, metric: str | None = None) -> np.ndarray:
        """avg or maj by seed and problem, shape [len(points), problems], in [0, 1]."""
        return self._column(points, dataset, VALUE_COLUMN[metric or self.spec.metric])

    def _column(self, points: Sequence[Point], dataset: str, column: str) -> np.ndarray:
        return np.stack([self.groups(point.groups, dataset)[column].to_numpy(np.float64) for point in points])

    def _estimate(self, points: Sequence[Point], datasets: Sequence[str], metric: str) -> tuple[float, ...]:
        """value, lo, hi over the seeds, and the smallest and largest value of a single seed."""
        if metric in VALUE_COLUMN:
            strata = [self.values(points, dataset, metric) for dataset in datasets]
            each = np.mean([part.mean(axis=1) for part in strata], axis=0)
            return *mean_interval(strata), float(each.min()), float(each.max())
        pairs = []
        for dataset in datasets:
            n, parsed = self._column(points, dataset, "n"), self._column(points, dataset, "parsed")
            # The authors' grader reads whole responses and may accept one without a parsed answer: count at most the
            # parsed ones.
            correct = np.minimum(self._column(points, dataset, "pass_rate") * n, parsed)
            pairs.append((parsed, n) if metric == "parsed" else (correct, parsed))
        with np.errstate(invalid="ignore"):
            each = np.mean([top.sum(axis=1) / below.sum(axis=1) for top, below in pairs], axis=0)
        known = each[np.isfinite(each)]
        spread = (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))
        return *ratio_interval(pairs), *spread

    def curve(self, seeds: Sequence[Series], datasets: Sequence[str], metric: str | None = None) -> pd.DataFrame:
        """The metric against the step for the seeds of one label, averaged over `datasets`.

        Returns step, value, lo, hi, seed_lo, seed_hi, n_problems, n_seeds, one row per step. Each data set weighs the
        same. lo and hi are the interval over problems and seeds of `srt.metrics.intervals`, seed_lo and seed_hi the
        range of the seeds.
        """
        metric = metric or self.spec.metric
        steps = [point.step for point in seeds[0].points]
        for other in seeds[1:]:
            odd = sorted({point.step for point in other.points} ^ set(steps))
            if odd:
                raise SrtError(
                    f"{self.spec.where()}: runs '{seeds[0].run}' and '{other.run}' are seeds of '{other.label}' but "
                    f"only one of them is evaluated at step {odd[0]}; evaluate both there"
                )
        rows = []
        for position, step in enumerate(steps):
            points = [run.points[position] for run in seeds]
            problems = sum(len(self.groups(points[0].groups, dataset)) for dataset in datasets)
            rows.append((step, *self._estimate(points, datasets, metric), problems, len(seeds)))
        columns = ["step", "value", "lo", "hi", "seed_lo", "seed_hi", "n_problems", "n_seeds"]
        return pd.DataFrame(rows, columns=columns)

    def drawn(self, seeds: Sequence[Series], curve: pd.DataFrame) -> pd.DataFrame:
        """The rows of a curve that a figure draws: up to the evaluation that follows the end of the last seed.

        Where the collapse alarm ended the runs, later rows are of the same weights: a line would look like training.
        """
        if not all(run.alarm_stops and run.metrics for run in seeds):
            return curve
        ends = [self.alarm(run) for run in seeds]
        if None in ends:
            return curve
        after = curve.step[curve.step >= max(ends)]
        return curve[curve.step <= after.min()] if len(after) else curve

    def alarm(self, run: Series) -> int | None:
        """The step at which the collapse alarm rings on the run's training metrics; None if it does not."""
        return collapse_alarm(self.training(run, list(ALARM_COLUMNS[1:])), self.spec.alarm)

    def stop(self, run: Series, dataset: str, metric: str) -> int:
        """Early stopping: the evaluated step at which the run is best on `dataset`, the earliest of equals.

        The same as in tables/early_stopping.csv (`srt.metrics.early_stopping`), where step 0 is where the run starts.
        """
        values = [self.values([point], dataset, metric).mean() for point in run.points]
        return run.points[int(np.argmax(values))].step

    def training(self, run: Series, columns: Sequence[str]) -> pd.DataFrame:
        """The run's training metrics, by step: `step` and the asked-for columns."""
        if run.metrics is None:
            raise SrtError(f"{self.spec.where()}: run '{run.run}' names no training metrics; set 'metrics' to its file")
        key = (run.metrics, *columns)
        if key not in self._metrics:
            frame = read_parquet(run.metrics, ["step", *columns]).to_pandas().sort_values("step", ignore_index=True)
            if frame.empty:
                raise SrtError(f"{self.spec.where()}: {run.metrics} has no rows; train run '{run.run}' first")
            twice = frame["step"][frame["step"].duplicated()]
            if len(twice):
                raise SrtError(f"{run.metrics}: step {twice.iloc[0]} has two rows; collect the metrics again")
            self._metrics[key] = frame
        return self._metrics[key]


def identify(frame: pd.DataFrame, *, panel: str, seeds: Sequence[Series], dataset: str, quantity: str) -> pd.DataFrame:
    """The frame with columns before its own that say which panel, series, runs and data set its numbers belong to."""
    head = {
        "panel": panel,
        "series": seeds[0].label,
        "method": seeds[0].method,
        "runs": "+".join(run.run for run in seeds),
        "dataset": dataset,
        "quantity": quantity,
    }
    return pd.concat([pd.DataFrame(head, index=frame.index), frame], axis=1)
