"""Estimators on accuracy curves: evaluated checkpoints of one run or two. Each gives numbers with 95 % intervals.

A `peak` is the best of the evaluated steps, base included, of the mean over seeds. Every replicate finds its own peak,
so the interval includes the uncertainty of the peak's place. The best of many noisy values is too high by about their
noise, in the estimate and in every replicate; the thresholds in `claims.yaml` leave room for that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from srt.claims.evidence import Curve, Undecided, View
from srt.claims.verdict import Number
from srt.metrics.intervals import percentile_interval

Options = dict[str, Any]


def level(view: View, options: Options) -> list[Number]:
    """The metric at one moment."""
    return [
        _number(f"{curve.label} of {curve.run}, {_when(options['at'])}{of}", *at(curve, options["at"]), curve)
        for of, sets in each(options)
        for curve in [view.curve(options["run"], sets, options["metric"])]
    ]


def change(view: View, options: Options) -> list[Number]:
    """The metric at one moment minus that at another, paired by problem and seed."""
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        (before, before_reps), (after, after_reps) = at(curve, options["since"]), at(curve, options["at"])
        name = f"change of {curve.label} of {curve.run}, {_when(options['since'])} to {_when(options['at'])}{of}"
        numbers.append(_number(name, after - before, after_reps - before_reps, curve))
    return numbers


def difference(view: View, options: Options) -> list[Number]:
    """The metric of one run minus that of another, paired by problem; the seeds of the two are independent."""
    theirs = options["at"] if options.get("against_at") is None else options["against_at"]
    until = options.get("until")
    others = [{**options, "against": run} for run in [options["against"], *(options.get("also") or ())]]
    numbers = []
    for pair, (of, sets) in itertools.product(others, list(each(options))):
        one, two = _pair(view, pair, sets)
        shared = None if until is None else _shared_steps(one, two, until)
        (a, a_reps), (b, b_reps) = at(one, options["at"], shared), at(two, theirs, shared)
        when = _when(options["at"]) if theirs == options["at"] else f"{_when(options['at'])} and {_when(theirs)}"
        when += "" if until is None else f" up to step {until}"
        name = f"{one.label} of {one.run} minus {two.run}, {when}{of}"
        numbers.append(_number(name, a - b, a_reps - b_reps, one, two))
    return numbers


def ratio(view: View, options: Options) -> list[Number]:
    """The metric at one moment over that at another moment, or of another run; undecided over a base of 0."""
    numbers = []
    for of, sets in each(options):
        if options.get("against"):
            one, two = _pair(view, options, sets)
        else:
            one = two = view.curve(options["run"], sets, options["metric"])
        (a, a_reps), (b, b_reps) = at(one, options["at"]), at(two, options["against_at"])
        if b <= 0:
            raise Undecided(f"{two.label} of {two.run}, {_when(options['against_at'])}{of}, is 0: there is no ratio")
        replicates = np.divide(a_reps, b_reps, out=np.full_like(a_reps, np.inf), where=b_reps > 0)
        name = f"{one.label} of {one.run}, {_when(options['at'])}, over {two.run}, {_when(options['against_at'])}{of}"
        numbers.append(_number(name, a / b, replicates, one, two, steps=bool(np.isinf(replicates).any())))
    return numbers


def peak_then_fall(view: View, options: Options) -> list[Number]:
    """The rise from base to peak and the fall from peak to last; with `after`, how much more it falls after that step.

    The fall up to the step starts at the best value up to it, the fall after the step at the best value from it on. A
    curve that fell before the step and keeps falling has a small or negative third number.
    """
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        peak, peak_reps = at(curve, "peak")
        for name, moment in (("rise to the peak", "base"), ("fall from the peak", "last")):
            value, reps = at(curve, moment)
            numbers.append(
                _number(f"{name} of {curve.label} of {curve.run}{of}", peak - value, peak_reps - reps, curve)
            )
        if (after := options.get("after")) is not None:
            numbers.append(_fall_after(curve, after, of))
    return numbers


def _fall_after(curve: Curve, step: int, of: str) -> Number:
    """The fall after a step minus the fall up to that step."""
    (there, there_reps), (last, last_reps) = at(curve, step), at(curve, "last")
    if curve.steps[-1] == step:
        raise Undecided(f"run {curve.run} stops at step {step}: nothing comes after it")
    before, before_reps = at(curve, "peak", curve.steps[curve.steps <= step])
    best, best_reps = at(curve, "peak", curve.steps[curve.steps >= step])
    value, reps = (best - last) - (before - there), (best_reps - last_reps) - (before_reps - there_reps)
    name = f"fall of {curve.label} of {curve.run} after step {step} minus that up to it{of}"
    return _number(name, value, reps, curve)


def peak_step(view: View, options: Options) -> list[Number]:
    """The evaluated step at which the metric is best; ties go to the earliest. In steps."""
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        best = curve.steps[curve.value.argmax()]
        replicates = curve.steps[curve.replicates.argmax(axis=1)]
        numbers.append(_number(f"peak step of {curve.label} of {curve.run}{of}", best, replicates, curve, steps=True))
    return numbers


def saturates(view: View, options: Options) -> list[Number]:
    """The largest absolute change of the metric after the step `by`, over all later evaluated steps."""
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        start, start_reps = at(curve, options["by"])
        later = curve.steps > options["by"]
        if not later.any():
            raise Undecided(
                f"run {curve.run} stops at step {curve.steps[-1]}: nothing comes after step {options['by']}"
            )
        largest = np.abs(curve.value[later] - start).max()
        replicates = np.abs(curve.replicates[:, later] - start_reps[:, None]).max(axis=1)
        name = f"largest change of {curve.label} of {curve.run} after step {options['by']}{of}"
        numbers.append(_number(name, largest, replicates, curve))
    return numbers


def early_stopping(view: View, options: Options) -> list[Number]:
    """The loss on the test sets from stopping where the held-out set is best: peak minus the value there."""
    chosen = view.curve(options["run"], [options["validation_dataset"]])
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets)
        lost = curve.value.max() - curve.value[chosen.value.argmax()]
        there = np.take_along_axis(curve.replicates, chosen.replicates.argmax(axis=1)[:, None], axis=1)[:, 0]
        name = f"{curve.label} of {curve.run} lost by stopping at step {chosen.steps[chosen.value.argmax()]}{of}"
        numbers.append(_number(name, lost, curve.replicates.max(axis=1) - there, curve))
    return numbers


def gain_difference(view: View, options: Options) -> list[Number]:
    """The gain over base of one run on its test sets minus that of another run on other test sets."""
    sides = [(options["run"], options["datasets"]), (options["against"], options["against_datasets"])]
    gains, curves = [], []
    for run, sets in sides:
        curve = view.curve(run, sets, options["metric"])
        (base, base_reps), (value, reps) = at(curve, "base"), at(curve, options["at"])
        gains.append((value - base, reps - base_reps))
        curves.append(curve)
    (a, a_reps), (b, b_reps) = gains
    name = f"gain of {curves[0].label} of {options['run']} minus that of {options['against']}, {_when(options['at'])}"
    return [_number(name, a - b, a_reps - b_reps, *curves)]


def suite_gain(view: View, options: Options) -> list[Number]:
    """The gain over base at one step on each suite, paired by problem and seed.

    Suites that hold the same data sets in other samples (another temperature) see the same drawn problems.
    """
    numbers = []
    for suite in options["suites"]:
        for of, sets in each(options):
            curve = view.curve(options["run"], sets, options["metric"], suite=suite, step=options["at"])
            (base, base_reps), (value, reps) = at(curve, "base"), at(curve, "last")
            name = f"gain of {curve.label} of {curve.run} to step {curve.steps[-1]}, {suite}{of}"
            numbers.append(_number(name, value - base, reps - base_reps, curve))
    return numbers


def falls_sooner(view: View, options: Options) -> list[Number]:
    """Step of the fall of one run minus that of the other; a run that does not fall counts with the last common step.

    By seed, then the mean: seeds collapse at different times. Undecided where neither run falls in any seed.
    """
    theirs = options.get("against_datasets") or options["datasets"]
    numbers = []
    for of, sets in each(options):
        one = view.curve(options["run"], sets, options["metric"])
        two = view.curve(options["against"], sets if theirs == options["datasets"] else theirs, options["metric"])
        horizon = min(one.steps[-1], two.steps[-1])
        means = []
        fallen = False
        for curve in (one, two):
            fallen |= bool((fall_index(curve.by_seed, options["drop"]) >= 0).any())
            by_seed = _fall_steps(curve, curve.by_seed, options["drop"], horizon)
            by_seed_reps = _fall_steps(curve, curve.by_seed_replicates, options["drop"], horizon)
            means.append((by_seed.mean(), (curve.weights * by_seed_reps).sum(axis=1)))
        if not fallen:
            raise Undecided(f"neither {one.run} nor {two.run} falls by {options['drop']:g}{of}")
        (a, a_reps), (b, b_reps) = means
        name = f"steps to the fall of {one.label} of {one.run} minus {two.run}{of}"
        numbers.append(_number(name, a - b, a_reps - b_reps, one, two, steps=True))
    return numbers


def fall_index(values: np.ndarray, drop: float) -> np.ndarray:
    """Index of the first point after the peak that is lower than the peak by more than `drop`; -1 without one.

    `values` [..., T]; returns [...]. Ties of the peak go to the earliest.

    >>> fall_index(np.array([[0.1, 0.5, 0.48, 0.2], [0.1, 0.2, 0.3, 0.4]]), 0.05)
    array([ 3, -1])
    """
    peak = values.argmax(axis=-1)[..., None]
    low = values < np.take_along_axis(values, peak, axis=-1) - drop
    low &= np.arange(values.shape[-1]) > peak
    return np.where(low.any(axis=-1), low.argmax(axis=-1), -1)


def _fall_steps(curve: Curve, values: np.ndarray, drop: float, horizon: int) -> np.ndarray:
    index = fall_index(values, drop)
    return np.minimum(np.where(index < 0, horizon, curve.steps[index]), horizon).astype(float)


def at(curve: Curve, moment: int | str, among: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Value and replicates [B] at a step, at `base`, `peak` or `last`. `among`: the steps that a peak may be at."""
    if moment == "peak":
        here = np.ones(len(curve.steps), dtype=bool) if among is None else np.isin(curve.steps, among)
        return float(curve.value[here].max()), curve.replicates[:, here].max(axis=1)
    step = int({"base": 0, "last": int(curve.steps[-1])}.get(str(moment), moment))
    found = np.flatnonzero(curve.steps == step)
    if not len(found) and step > curve.steps[-1]:
        raise Undecided(f"run {curve.run} stops at step {curve.steps[-1]}, before step {step}")
    if not len(found):
        near = int(np.searchsorted(curve.steps, step))
        raise Undecided(
            f"run {curve.run} is not evaluated at step {step}, only at {curve.steps[near - 1]} and {curve.steps[near]}"
        )
    return float(curve.value[found[0]]), curve.replicates[:, found[0]]


def each(options: Options) -> Iterator[tuple[str, list[str]]]:
    """The test sets of each number with a suffix for its name: all sets together, or one number per set."""
    if options["each"]:
        yield from ((f" on {dataset}", [dataset]) for dataset in options["datasets"])
    else:
        yield "", list(options["datasets"])


def interval(replicates: np.ndarray, steps: bool = False) -> tuple[float, float]:
    """The 95 % percentile interval. `steps`: the ends are values that occur, so infinity is never interpolated."""
    if not steps:
        return percentile_interval(replicates)
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return float("nan"), float("nan")
    lo, hi = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
    return float(lo), float(hi)


def _number(name: str, value: float, replicates: np.ndarray, *curves: Curve, steps: bool = False) -> Number:
    lo, hi = interval(np.asarray(replicates, dtype=float), steps)
    return Number(name, float(value), lo, hi, min(c.problems for c in curves), min(c.seeds for c in curves))


def _pair(view: View, options: Options, sets: Sequence[str]) -> tuple[Curve, Curve]:
    run, against = options["run"], options["against"]
    return (
        view.curve(run, sets, options["metric"], other=against),
        view.curve(against, sets, options["metric"], other=run),
    )


def _shared_steps(one: Curve, two: Curve, until: int) -> np.ndarray:
    """The steps up to `until` at which both runs are evaluated: the best of more noisy values would be higher."""
    for curve in (one, two):
        if curve.steps[-1] < until:
            raise Undecided(f"run {curve.run} stops at step {curve.steps[-1]}, before step {until}")
    shared = np.intersect1d(one.steps, two.steps)
    return shared[shared <= until]


def _when(moment: int | str) -> str:
    return f"step {moment}" if isinstance(moment, int) else str(moment)


ESTIMATORS: dict[str, Callable[[View, Options], list[Number]]] = {
    "level": level,
    "change": change,
    "difference": difference,
    "ratio": ratio,
    "peak_then_fall": peak_then_fall,
    "peak_step": peak_step,
    "falls_sooner": falls_sooner,
    "saturates": saturates,
    "early_stopping": early_stopping,
    "gain_difference": gain_difference,
    "suite_gain": suite_gain,
}
