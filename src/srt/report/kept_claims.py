"""The claims of a kept run, judged by the present rule from its kept tables.

docs/miniature keeps tables, not rollouts: results.csv has the accuracy of each seed with its interval over problems,
claims.csv the numbers of the run's own time. The spread of seeds is therefore exact here. That of problems is bounded
from above by the intervals of single seeds, as if the same problems did best with every seed. Peaks are chosen by the
other seeds alone. Numbers that results.csv does not hold keep their estimate; their interval is widened as if all of
its bootstrap's spread came from seeds. The intervals are therefore rather too wide than too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.claims.accuracy_estimators import Largest
from srt.claims.check_claims import Checked
from srt.claims.training_estimators import Trials
from srt.claims.verdict import UNDECIDED, Number, Verdict, decide, p_value
from srt.config.root import Config
from srt.metrics.intervals import LEVEL, Estimate, HasInterval, seeds_of, t_quantile
from srt.metrics.peaks import choose, widened

_NORMAL = 1.96
_MEANS = {"level", "change", "difference", "peak_then_fall", "saturates", "early_stopping"}


@dataclass(frozen=True)
class Widened:
    """A bootstrap interval whose spread counts as if it all came from the seeds (one seed: from the problems)."""

    value: float
    lo: float
    hi: float
    seeds: int
    problems: int
    most: float = math.inf

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends."""
        count = self.seeds if self.seeds > 1 else max(self.problems, 2)
        factor = t_quantile(level, count - 1) / (_NORMAL * math.sqrt((count - 1) / count))
        hi = self.value + factor * (self.hi - self.value)
        return self.value - factor * (self.value - self.lo), min(hi, self.most)


class _Curve:
    """A metric of a run: steps [T], values [S, T], variance over problems of a level and of a gain over base [T]."""

    def __init__(self, results: pd.DataFrame, run: str, sets: list[str], metric: str) -> None:
        rows = results[results["run"].str.fullmatch(rf"{run}-s\d+") & results["dataset"].isin(sets)]
        mean = rows.groupby(["run", "step"])[metric].mean().unstack()
        self.run, self.seeds, self.steps = (
            run,
            [name.rpartition("-s")[2] for name in mean.index],
            mean.columns.to_numpy(),
        )
        self.values = mean.to_numpy()
        first = rows[rows["step"] == 0].drop_duplicates("dataset")
        self.label = f"{metric}@{first['n'].iloc[0]} of {run}"
        self.problems, self.n = int(first["problems"].sum()), str(first["n"].iloc[0])
        self.dof = int(first["problems"].min()) - 1

        def variance(column: str) -> np.ndarray:
            spread = ((rows[f"{column}_hi"] - rows[f"{column}_lo"]) / (2 * _NORMAL)) ** 2 / len(sets) ** 2
            by_seed = spread.groupby([rows["run"], rows["step"]]).sum().unstack()
            return by_seed.mean().to_numpy()

        self.level = variance(metric)
        # maj has no interval of its gain: as if before and after were independent
        self.gain = variance("gain") if metric == "avg" else self.level + self.level[0]

    def place(self, moment: int | str) -> int:
        """Place of a step, `base` or `last`."""
        return int(np.flatnonzero(self.steps == {"base": 0, "last": self.steps[-1]}.get(str(moment), moment))[0])

    def at(self, moment: int | str, among: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """Values [S] and the variance over problems of their gain."""
        if moment != "peak":
            place = self.place(moment)
            return self.values[:, place], float(self.gain[place])
        places = np.arange(1, len(self.steps)) if among is None else among
        part = {"all": self.values[:, places, None].repeat(2, axis=2)}  # two halves of equal problems
        best = [places[int(choose(part, seed, 0))] for seed in range(len(self.values))]
        return self.values[np.arange(len(best)), best], float(self.gain[best].mean())


def judge_kept(config: Config, folder: Path) -> list[Checked]:
    """Every claim that claims.csv of the kept run holds, judged anew, in its order."""
    results, kept = pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "bootstrap_claims.csv")
    checked = []
    for name, rows in kept.groupby("claim", sort=False):
        claim = config.claims[str(name)].model_dump(mode="json", exclude_none=True)
        if rows["estimate"].isna().all():
            verdict = Verdict(UNDECIDED, str(rows["reason"].iloc[0]))
        else:
            numbers = _numbers(claim, results) if claim["estimator"] in _MEANS else _widened(claim, rows)
            verdict = decide(numbers, claim["expect"], claim["max_width"], claim.get("min_seeds", 1))
            reason = verdict.reason[:1].upper() + verdict.reason[1:]
            verdict = Verdict(verdict.verdict, reason, verdict.numbers, p_value(numbers, claim["expect"]))
        checked.append(Checked(str(name), claim, verdict))
    return checked


def _widened(claim: dict[str, Any], rows: pd.DataFrame) -> list[Number]:
    """The kept numbers of a claim that results.csv does not hold."""
    numbers = []
    for row in rows.itertuples():
        problems = 0 if pd.isna(row.problems) else int(row.problems)
        share = claim["estimator"] == "one_answer" or claim["options"].get("quantity") == "reward"
        most = 1.0 if share and not claim["options"].get("since") else math.inf
        source: HasInterval = Widened(row.estimate, row.lo, row.hi, int(row.seeds), problems, most)
        if claim["estimator"] == "alarm_rate":
            source = Trials(round(row.estimate * row.seeds), int(row.seeds))
        numbers.append(Number(row.number, row.estimate, *source.interval(), problems, int(row.seeds), "", source))
    return numbers


def _numbers(claim: dict[str, Any], results: pd.DataFrame) -> list[Number]:
    """The numbers of a claim on accuracies, from the seeds of results.csv."""
    options, kind = claim["options"], claim["estimator"]
    groups = [options["datasets"]] if not options.get("each") else [[each] for each in options["datasets"]]
    numbers = []
    for sets in groups:
        of = f" on {sets[0]}" if options.get("each") else ""
        curve = _Curve(results, options["run"], sets, options.get("metric", "avg"))
        found: list[tuple[str, HasInterval]] = []
        if kind == "change":
            since, until = options["since"], options["at"]
            end = (
                int(np.flatnonzero(curve.steps == {"last": curve.steps[-1]}.get(str(until), until))[0])
                if since == "peak"
                else 0
            )
            before = curve.at(since, np.arange(end) if since == "peak" else None)
            found = [
                (
                    f"change of {curve.label}, {since} to {until}",
                    _less(curve.at(until), before, "peak" in (since, until)),
                )
            ]
        elif kind == "difference":
            other = _Curve(results, options["against"], sets, options.get("metric", "avg"))
            theirs = options["at"] if options.get("against_at") is None else options["against_at"]
            same = curve.seeds == other.seeds
            source = _less(curve.at(options["at"]), other.at(theirs), "peak" in (options["at"], theirs), same)
            found = [(f"{curve.label} minus {options['against']}, {options['at']} and {theirs}", source)]
        elif kind == "peak_then_fall":
            peak = curve.at("peak", np.arange(1, len(curve.steps) - 1))
            found = [
                (f"rise to the peak of {curve.label}", _less(peak, curve.at("base"), True)),
                (f"fall from the peak of {curve.label}", _less(peak, curve.at("last"), True)),
            ]
        elif kind == "saturates":
            start = curve.at(options["by"])
            later = [_less(curve.at(int(step)), start) for step in curve.steps if step > options["by"]]
            found = [
                (f"largest change of {curve.label} after step {options['by']}", Largest(tuple(later), absolute=True))
            ]
        elif kind == "early_stopping":
            held = _Curve(results, options["run"], [options["validation_dataset"]], "avg")
            stop = int(held.steps[held.values.mean(axis=0).argmax()])
            others = [_less(curve.at(int(step)), curve.at(stop)) for step in curve.steps if step != stop]
            found = [(f"{curve.label} lost by stopping at step {stop}", Largest(tuple(others)))]
        for name, source in found:
            lo, hi = source.interval()
            seeds = len(curve.seeds) if kind != "difference" else min(len(curve.seeds), len(other.seeds))
            numbers.append(
                Number(f"{name}{of}", float(source.value), float(lo), float(hi), curve.problems, seeds, curve.n, source)
            )
    return numbers


def _less(
    a: tuple[np.ndarray, float], b: tuple[np.ndarray, float], peak: bool = False, paired: bool = True
) -> Estimate:
    """The mean of a - b, paired by seed or not."""
    (one, one_variance), (two, two_variance) = a, b  # the smallest test set has 40 problems
    seeds = seeds_of(one - two) if paired else seeds_of(one, two)
    estimate = Estimate(float(one.mean() - two.mean()), seeds, ((one_variance + two_variance, 39),))
    return widened(estimate) if peak else estimate
