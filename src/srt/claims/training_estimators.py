"""Estimators on training metrics: levels and changes, jumps at the fall of the accuracy, the label-free alarm."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from srt.claims.accuracy_estimators import Options, each, fall_index, interval
from srt.claims.evidence import Curve, Undecided, View
from srt.claims.verdict import Number
from srt.metrics.alarm import COLUMNS, AlarmRule, collapse_alarm

# If a larger share of replicates has no fall, there is no step of a fall to compare with.
_DOUBT = 0.05


def training(view: View, options: Options) -> list[Number]:
    """The mean of a metric over a window that ends at a step, minus that at `since` or of the run `against`.

    Replicates draw the steps of each window, as if steps were independent, and the seeds of each run.
    """
    run, quantity = options["run"], options["quantity"]
    value, reps, seeds = _window(view, run, quantity, options["at"], options["window"], 0)
    when = "last" if options["at"] == "last" else f"step {options['at']}"
    name = f"{quantity} of {run}, {when}"
    if options.get("since"):
        before, before_reps, _ = _window(view, run, quantity, options["since"], options["window"], 1)
        value, reps, name = value - before, reps - before_reps, f"{name} minus step {options['since']}"
    if options.get("against"):
        other, at = options["against"], options["at"]
        theirs, their_reps, their_seeds = _window(view, other, quantity, at, options["window"], 2)
        if options.get("since"):
            before, before_reps, _ = _window(view, other, quantity, options["since"], options["window"], 3)
            theirs, their_reps = theirs - before, their_reps - before_reps
        value, reps, name, seeds = value - theirs, reps - their_reps, f"{name} minus {other}", min(seeds, their_seeds)
    return [Number(name, float(value), *interval(reps), 0, seeds)]


def _window(
    view: View, run: str, quantity: str, at: int | str, window: int, which: int
) -> tuple[float, np.ndarray, int]:
    steps, values = view.evidence.training(run, quantity)
    end = len(steps) if at == "last" else int(np.searchsorted(steps, int(at), side="right"))
    if at != "last" and int(at) > steps[-1]:
        raise Undecided(f"run {run} stops at step {steps[-1]}, before step {at}")
    if end < window:
        raise Undecided(f"run {run} has {end} training steps up to there, fewer than the window of {window}")
    part = values[:, end - window : end]
    drawn = view.step_weights(window, which) @ part.T
    weights = view.seed_weights(run, len(values))
    return float(part.mean()), (weights * drawn).sum(axis=1), len(values)


def jumps_together(view: View, options: Options) -> list[Number]:
    """Steps between the fall of the accuracy and the largest rise of each training metric; 0 means together.

    The fall lies between two evaluated steps; a rise between them has the distance 0. A rise is the mean of `window`
    steps minus that of the `window` before, placed at the first of the later steps. The number is the mean over the
    seeds that fall.
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
            estimate = _mean_of_known(_distance(curve, curve.by_seed, jumps, options["drop"]), None)
            replicates = _mean_of_known(
                _distance(curve, curve.by_seed_replicates, jumps, options["drop"]), curve.weights
            )
            name = f"steps between the fall of {curve.label} of {curve.run} and the rise of {quantity}{of}"
            ends = interval(replicates, steps=True)
            numbers.append(Number(name, float(estimate), *ends, curve.problems, curve.seeds))
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

    The fall lies between two evaluated steps and counts from the first step at which it can have happened. The number
    is the mean over the seeds that fall; a seed that falls without an alarm has a lead of minus infinity.
    """
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets)
        _require_fall(curve, options["drop"], of)
        rang = np.array([-math.inf if step is None else -step for step in alarms(view, options["run"])])
        estimate = _mean_of_known(_first_step(curve, curve.by_seed, options["drop"]) + rang, None)
        leads = _first_step(curve, curve.by_seed_replicates, options["drop"]) + rang
        ends = interval(_mean_of_known(leads, curve.weights), steps=True)
        name = f"steps from the alarm to the fall of {curve.label} of {curve.run}{of}"
        numbers.append(Number(name, float(estimate), *ends, curve.problems, curve.seeds))
    return numbers


def alarm_rate(view: View, options: Options) -> list[Number]:
    """Share of the seeds in which the alarm rings, with the exact (Clopper-Pearson) interval.

    Each seed is one trial, whichever run it belongs to.
    """
    others = options.get("also") or []
    rang = [step is not None for run in [options["run"], *others] for step in alarms(view, run)]
    more = f" and {len(others)} more run{'s' * (len(others) != 1)}" if others else ""
    name = f"share of seeds of {options['run']}{more} in which the alarm rings"
    return [Number(name, sum(rang) / len(rang), *exact_interval(sum(rang), len(rang)), 0, len(rang))]


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


def _mean_of_known(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Weighted mean over the last axis without NaN; NaN where nothing is left."""
    weights = np.ones_like(values) if weights is None else weights
    known = ~np.isnan(values) & (weights > 0)  # 0 times infinity is no number
    total = np.where(known, values * np.where(known, weights, 1.0), 0.0).sum(axis=-1)
    weight = (known * weights).sum(axis=-1)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _require_fall(curve: Curve, drop: float, of: str) -> None:
    """Undecided unless some seed falls, in the estimate and in nearly all replicates."""
    if (fall_index(curve.by_seed, drop) < 0).all():
        raise Undecided(f"{curve.label} of {curve.run}{of} does not fall by {drop:g}")
    fallen = ((fall_index(curve.by_seed_replicates, drop) >= 0) & (curve.weights > 0)).any(axis=1)
    if fallen.mean() < 1 - _DOUBT:
        raise Undecided(f"{curve.label} of {curve.run}{of} falls by {drop:g} in only {fallen.mean():.0%} of replicates")


ESTIMATORS: dict[str, Callable[[View, Options], list[Number]]] = {
    "training": training,
    "jumps_together": jumps_together,
    "alarm_leads": alarm_leads,
    "alarm_rate": alarm_rate,
}
