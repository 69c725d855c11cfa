"""Estimators on training metrics: levels and changes, jumps at the fall of the accuracy, the label-free alarm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srt.claims.accuracy_estimators import Options, each, fall_index, fall_spacing, number
from srt.claims.evidence import Curve, Undecided, View
from srt.claims.verdict import Number
from srt.metrics.alarm import COLUMNS, AlarmRule, collapse_alarm
from srt.metrics.intervals import LEVEL, Estimate, HasInterval, Resampled, seeds_of

# If a larger share of replicates has no fall, there is no step of a fall to compare with.
_DOUBT = 0.05


def training(view: View, options: Options) -> list[Number]:
    """The mean of a metric over a window that ends at a step, minus that at `since` or of the run `against`.

    The interval is over seeds, paired where both runs have the same. With one seed it is over the steps of the window,
    drawn as if they were independent.
    """
    run, quantity, other = options["run"], options["quantity"], options.get("against")
    name = f"{quantity} of {run}, {'last' if options['at'] == 'last' else 'step ' + str(options['at'])}"
    name += f" minus step {options['since']}" if options.get("since") else ""
    sides = [_since(view, run, options, 0)]
    if other:
        sides.append(_since(view, other, options, 2))
        name += f" minus {other}"
    means = [values.mean(axis=1) for values, _ in sides]
    value = float(means[0].mean() - (means[1].mean() if other else 0.0))
    names = [view.seed_names(each) for each in ([run, other] if other else [run])]
    seeds = min(map(len, names))
    source: HasInterval
    if seeds == 1:
        source = Resampled(value, (), sides[0][1] - (sides[1][1] if other else 0.0))
    elif len(means) == 2 and names[0] == names[1]:
        source = Estimate(value, seeds_of(means[0] - means[1]), ())
    else:
        source = Estimate(value, seeds_of(*means), ())
    return [Number(name, value, *source.interval(), 0, seeds, "", source)]


def _since(view: View, run: str, options: Options, which: int) -> tuple[np.ndarray, np.ndarray]:
    """Values [S, window] at the moment, less those at `since`; and their mean over resampled steps [B]."""
    values, reps = _window(view, run, options["quantity"], options["at"], options["window"], which)
    if options.get("since"):
        before, before_reps = _window(view, run, options["quantity"], options["since"], options["window"], which + 1)
        values, reps = values - before, reps - before_reps
    return values, reps


def _window(
    view: View, run: str, quantity: str, at: int | str, window: int, which: int
) -> tuple[np.ndarray, np.ndarray]:
    steps, values = view.evidence.training(run, quantity)
    end = len(steps) if at == "last" else int(np.searchsorted(steps, int(at), side="right"))
    if at != "last" and int(at) > steps[-1]:
        raise Undecided(f"run {run} stops at step {steps[-1]}, before step {at}")
    if end < window:
        raise Undecided(f"run {run} has {end} training steps up to there, fewer than the window of {window}")
    part = values[:, end - window : end]
    return part, view.step_weights(window, which) @ part.mean(axis=0)


def jumps_together(view: View, options: Options) -> list[Number]:
    """Steps between the fall of the accuracy and the largest rise of each training metric; 0 means together.

    The fall lies between two evaluated steps; a rise between them has the distance 0. A rise is the mean of `window`
    steps minus that of the `window` before, placed at the first of the later steps, to half a window. The number is the
    mean over the seeds that fall.
    """
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets)
        _require_fall(curve, options["drop"], of)
        for quantity in options["quantities"]:
            steps, values = view.evidence.training(options["run"], quantity)
            if len(steps) < 2 * options["window"]:
                raise Undecided(f"run {curve.run} has {len(steps)} training steps, fewer than two windows")
            jumps = np.array([steps[rise_index(row, options["window"])] for row in values], dtype=float)
            by_seed = _distance(curve, curve.by_seed, jumps, options["drop"])
            replicates = _mean_of_known(_distance(curve, curve.by_seed_replicates, jumps, options["drop"]))
            near = options["window"] / 2
            name = f"steps between the fall of {curve.label} of {curve.run} and the rise of {quantity}{of}"
            value = float(_mean_of_known(by_seed))
            numbers.append(number(name, Resampled(value, seeds_of(by_seed), replicates, near, near, 0.0), curve))
    return numbers


def rise_index(values: np.ndarray, window: int) -> int:
    """Index where the mean of the next `window` values exceeds that of the `window` before it the most.

    >>> rise_index(np.array([0, 0, 0, 1, 1, 1.0]), 2)
    3
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(window, len(values) - window + 1)
    rise = (total[middle + window] - total[middle]) - (total[middle] - total[middle - window])
    return int(middle[rise.argmax()])


def alarm_leads(view: View, options: Options) -> list[Number]:
    """Steps from the label-free alarm (`srt.metrics.alarm`) to the fall of the accuracy; negative for a late alarm.

    The fall lies between two evaluated steps: it counts from the first step at which it can have happened, and the
    upper end of the interval from the last. The number is the mean over the seeds that fall; a seed that falls without
    an alarm has a lead of minus infinity.
    """
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets)
        _require_fall(curve, options["drop"], of)
        rang = np.array([-math.inf if step is None else -step for step in alarms(view, options["run"])])
        by_seed = _first_step(curve, curve.by_seed, options["drop"]) + rang
        leads = _first_step(curve, curve.by_seed_replicates, options["drop"]) + rang
        known = by_seed[~np.isnan(by_seed)]
        value, spacing = float(known.mean()), fall_spacing(curve, options["drop"])
        source: HasInterval
        if math.isinf(value):  # a missed fall has no lead: only the others bound it
            source = _Missed(float(known.max()))
        else:
            source = Resampled(value, seeds_of(by_seed), _mean_of_known(leads), above=spacing)
        numbers.append(number(f"steps from the alarm to the fall of {curve.label} of {curve.run}{of}", source, curve))
    return numbers


@dataclass(frozen=True)
class _Missed:
    """A mean lead over seeds one of which fell without an alarm; `best` is the largest lead of a seed."""

    best: float
    value: float = -math.inf

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends, at every level."""
        return self.value, self.best


def alarm_rate(view: View, options: Options) -> list[Number]:
    """Share of the seeds in which the alarm rings, with the exact (Clopper-Pearson) interval.

    Each seed is one trial, whichever run it belongs to.
    """
    others = options.get("also") or []
    rang = [step is not None for run in [options["run"], *others] for step in alarms(view, run)]
    more = f" and {len(others)} more run{'s' * (len(others) != 1)}" if others else ""
    name = f"share of seeds of {options['run']}{more} in which the alarm rings"
    source = Trials(sum(rang), len(rang))
    return [Number(name, source.value, *source.interval(), 0, len(rang), "", source)]


@dataclass(frozen=True)
class Trials:
    """A share that was k of n, with its exact interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.k / self.n

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends."""
        return exact_interval(self.k, self.n, level)


def alarms(view: View, run: str) -> list[int | None]:
    """The step at which the alarm rings in each seed, None where it does not ring."""
    for column in COLUMNS[1:]:
        view.evidence.training(run, column)  # undecided where a metric is missing
    rule = AlarmRule.model_validate(view.evidence.spec.get("alarm") or {})
    return [collapse_alarm(frame, rule) for frame in view.evidence.metrics_frame(run)]


def exact_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share that was k of n.

    >>> [round(end, 3) for end in exact_interval(0, 3)]
    [0.0, 0.708]
    """

    def tail(p: float, least: int) -> float:
        """P(X >= least) for X ~ Binomial(n, p)."""
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(least, n + 1))

    def solve(least: int, target: float) -> float:
        lo, hi = 0.0, 1.0
        for _ in range(60):
            middle = (lo + hi) / 2
            lo, hi = (middle, hi) if tail(middle, least) < target else (lo, middle)
        return (lo + hi) / 2

    rest = (1 - level) / 2
    return (solve(k, rest) if k else 0.0), (solve(k + 1, 1 - rest) if k < n else 1.0)


def _first_step(curve: Curve, values: np.ndarray, drop: float) -> np.ndarray:
    """First step at which each seed's fall can have happened [..., S]; NaN for a seed that does not fall."""
    index = fall_index(values, drop)
    return np.where(index < 0, np.nan, curve.steps[np.maximum(index - 1, 0)] + 1.0)


def _distance(curve: Curve, values: np.ndarray, jumps: np.ndarray, drop: float) -> np.ndarray:
    """Steps between each seed's fall and its jump [..., S]; NaN for a seed that does not fall."""
    index = fall_index(values, drop)
    first, last = _first_step(curve, values, drop), curve.steps[index]
    return np.maximum(np.maximum(first - jumps, jumps - last), 0.0)  # NaN stays NaN


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing is left
        return np.nanmean(values, axis=-1)


def _require_fall(curve: Curve, drop: float, of: str) -> None:
    """Undecided unless some seed falls, in the estimate and in nearly all replicates."""
    if (fall_index(curve.by_seed, drop) < 0).all():
        raise Undecided(f"{curve.label} of {curve.run}{of} does not fall by {drop:g}")
    fallen = (fall_index(curve.by_seed_replicates, drop) >= 0).any(axis=1)
    if fallen.mean() < 1 - _DOUBT:
        raise Undecided(f"{curve.label} of {curve.run}{of} falls by {drop:g} in only {fallen.mean():.0%} of replicates")


ESTIMATORS: dict[str, Callable[[View, Options], list[Number]]] = {
    "training": training,
    "jumps_together": jumps_together,
    "alarm_leads": alarm_leads,
    "alarm_rate": alarm_rate,
}
