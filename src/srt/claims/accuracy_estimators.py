"""Estimators on accuracy curves: evaluated checkpoints of one run or two. Each gives numbers with 95 % intervals.

A `peak` is the best of the evaluated steps after the start. Its step is chosen on one half of the problems and seeds,
its value read on the other (`srt.metrics.peaks`): the best of many noisy values would be too high by about their noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srt.claims.evidence import Curve, Undecided, View
from srt.claims.verdict import Number
from srt.metrics.intervals import LEVEL, Estimate, HasInterval, Ratio, Resampled, crossed, ratio_of, seeds_of
from srt.metrics.peaks import peak_cells, widened

Options = dict[str, Any]
Values = dict[str, np.ndarray]  # [S, P] by data set


def level(view: View, options: Options) -> list[Number]:
    """The metric at one moment."""
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        values = at(curve, options["at"])
        seeds = curve.seeds
        if options["at"] in ("base", 0) and curve.one_start:  # one model, whatever the number of seeds
            values, seeds = {name: part[:1] for name, part in values.items()}, 1
        estimate = _peaked(crossed(values, share=True), options["at"])
        name = f"{curve.label} of {curve.run}, {_when(options['at'])}{of}"
        numbers.append(number(name, estimate, curve, seeds=seeds))
    return numbers


def change(view: View, options: Options) -> list[Number]:
    """The metric at one moment minus that at another, paired by problem and seed.

    The peak is the best step after the base model; as the earlier moment it is the best step before the later one.
    """
    since, until = options["since"], options["at"]
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        before = at(curve, since, curve.steps[: curve.index(until)] if since == "peak" != until else None)
        estimate = _peaked(crossed(_less(at(curve, until), before)), since, until)
        name = f"change of {curve.label} of {curve.run}, {_when(since)} to {_when(until)}{of}"
        numbers.append(number(name, estimate, curve))
    return numbers


def difference(view: View, options: Options) -> list[Number]:
    """The metric of one run minus that of another, paired by problem, and by seed if both have the same seeds."""
    theirs = options["at"] if options.get("against_at") is None else options["against_at"]
    until = options.get("until")
    others = [{**options, "against": run} for run in [options["against"], *(options.get("also") or ())]]
    numbers = []
    for pair, (of, sets) in itertools.product(others, list(each(options))):
        one, two = _pair(view, pair, sets)
        shared = None if until is None else _shared_steps(one, two, until)
        sides = _sides(one, two, at(one, options["at"], shared), at(two, theirs, shared))
        when = _when(options["at"]) if theirs == options["at"] else f"{_when(options['at'])} and {_when(theirs)}"
        when += "" if until is None else f" up to step {until}"
        name = f"{one.label} of {one.run} minus {two.run}, {when}{of}"
        numbers.append(number(name, _peaked(crossed(*sides), options["at"], theirs), one, two))
    return numbers


def ratio(view: View, options: Options) -> list[Number]:
    """The metric at one moment over that at another moment, or of another run; undecided where either is 0."""
    numbers = []
    for of, sets in each(options):
        if options.get("against"):
            one, two = _pair(view, options, sets)
        else:
            one = two = view.curve(options["run"], sets, options["metric"])
        above, below = at(one, options["at"]), at(two, options["against_at"])
        for values, curve, moment in ((below, two, options["against_at"]), (above, one, options["at"])):
            if crossed(values).value <= 0:
                raise Undecided(f"{curve.label} of {curve.run}, {_when(moment)}{of}, is 0: there is no ratio")
        found = ratio_of(above, below, paired=one.seed_names == two.seed_names)
        source = Ratio(found.value, _peaked(found.log, options["at"], options["against_at"]))
        name = f"{one.label} of {one.run}, {_when(options['at'])}, over {two.run}, {_when(options['against_at'])}{of}"
        numbers.append(number(name, source, one, two))
    return numbers


def peak_then_fall(view: View, options: Options) -> list[Number]:
    """The rise from base to peak and the fall from peak to last; with `after`, how much more it falls after that step.

    The peak lies between base and last. The fall up to the step starts at the best value before it, the fall after the
    step at the best value from it on. A curve that fell before the step and keeps falling has a small or negative third
    number.
    """
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        base, last = at(curve, "base"), at(curve, "last")
        peak = at(curve, "peak", curve.steps[1:-1])
        for what, drop in (("rise to the peak", _less(peak, base)), ("fall from the peak", _less(peak, last))):
            name = f"{what} of {curve.label} of {curve.run}{of}"
            numbers.append(number(name, widened(crossed(drop)), curve))
        if (after := options.get("after")) is not None:
            numbers.append(_fall_after(curve, after, of))
    return numbers


def _fall_after(curve: Curve, step: int, of: str) -> Number:
    """The fall after a step minus the fall up to that step."""
    there, last = at(curve, step), at(curve, "last")
    if curve.steps[-1] == step:
        raise Undecided(f"run {curve.run} stops at step {step}: nothing comes after it")
    before = at(curve, "peak", curve.steps[curve.steps <= step])
    best = at(curve, "peak", curve.steps[(curve.steps >= step) & (curve.steps < curve.steps[-1])])
    values = _less(_less(best, last), _less(before, there))
    name = f"fall of {curve.label} of {curve.run} after step {step} minus that up to it{of}"
    return number(name, widened(crossed(values)), curve)


def peak_step(view: View, options: Options) -> list[Number]:
    """The evaluated step at which the metric is best, to half the distance of its neighbours; ties: the earliest.

    With `against_datasets`, minus that on these sets, by seed.
    """
    numbers = []
    others = options.get("against_datasets")
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        value, by_seed, replicates, near = _peak_steps(curve)
        name, below, above = f"peak step of {curve.label} of {curve.run}{of}", *near
        if others:
            theirs = _peak_steps(view.curve(options["run"], others, options["metric"]))
            value, by_seed, replicates = value - theirs[0], by_seed - theirs[1], replicates - theirs[2]
            below, above = below + theirs[3][1], above + theirs[3][0]
            name += f" minus that on {' and '.join(others)}"
        source = Resampled(value, seeds_of(by_seed), replicates, below=below, above=above)
        numbers.append(number(name, source, curve))
    return numbers


def _peak_steps(curve: Curve) -> tuple[float, np.ndarray, np.ndarray, tuple[float, float]]:
    """The step of the peak: of the mean, of each seed [S], of replicates [B]; and half the distance of its neighbours.

    The base model's step 0 has no neighbour below, the last step none above: the distance to the other one counts.
    """
    best, steps = int(curve.value.argmax()), curve.steps.astype(float)
    below, above = np.diff(steps)[[max(best - 1, 0), min(best, len(steps) - 2)]] / 2
    by_seed = steps[curve.by_seed.argmax(axis=1)]
    return steps[best], by_seed, steps[curve.by_seed_replicates.mean(axis=1).argmax(axis=1)], (below, above)


@dataclass(frozen=True)
class Largest:
    """The largest of several numbers, or of their absolute values.

    The upper end is the largest upper end: that all are below a bound needs no correction for their number. The lower
    end is the largest lower end, each at the level that Bonferroni's correction asks for.
    """

    numbers: tuple[Estimate, ...]
    absolute: bool = False

    @property
    def value(self) -> float:
        """The largest."""
        return max(abs(each.value) if self.absolute else each.value for each in self.numbers)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends."""
        plain = [each.interval(level) for each in self.numbers]
        strict = [each.interval(1 - (1 - level) / len(self.numbers)) for each in self.numbers]
        if not self.absolute:
            return max(lo for lo, _ in strict), max(hi for _, hi in plain)
        return max(max(lo, -hi, 0.0) for lo, hi in strict), max(max(-lo, hi) for lo, hi in plain)


def saturates(view: View, options: Options) -> list[Number]:
    """The largest absolute change of the metric after the step `by`, over all later evaluated steps."""
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets, options["metric"])
        start = at(curve, options["by"])
        later = np.flatnonzero(curve.steps > options["by"])
        if not len(later):
            raise Undecided(
                f"run {curve.run} stops at step {curve.steps[-1]}: nothing comes after step {options['by']}"
            )
        source = Largest(tuple(crossed(_less(curve.at(int(place)), start)) for place in later), absolute=True)
        name = f"largest change of {curve.label} of {curve.run} after step {options['by']}{of}"
        numbers.append(number(name, source, curve))
    return numbers


def early_stopping(view: View, options: Options) -> list[Number]:
    """The loss on the test sets from stopping where the held-out set is best: how much better another step is."""
    chosen = view.curve(options["run"], [options["validation_dataset"]])
    stop = int(chosen.value.argmax())
    numbers = []
    for of, sets in each(options):
        curve = view.curve(options["run"], sets)
        others = [place for place in range(len(curve.steps)) if place != stop]
        source = Largest(tuple(crossed(_less(curve.at(place), curve.at(stop))) for place in others))
        name = f"{curve.label} of {curve.run} lost by stopping at step {chosen.steps[stop]}{of}"
        numbers.append(number(name, source, curve))
    return numbers


def gain_difference(view: View, options: Options) -> list[Number]:
    """The gain over base of one run on its test sets minus that of another run on other test sets."""
    one, two = (
        view.curve(options[run], options[sets], options["metric"])
        for run, sets in (("run", "datasets"), ("against", "against_datasets"))
    )
    a, b = (_less(at(curve, options["at"]), at(curve, "base")) for curve in (one, two))
    name = f"gain of {one.label} of {options['run']} minus that of {options['against']}, {_when(options['at'])}"
    return [number(name, _peaked(crossed(a, _less(b)), options["at"]), one, two)]


def suite_gain(view: View, options: Options) -> list[Number]:
    """The gain over base at one step on each suite, paired by problem and seed."""
    numbers = []
    for suite in options["suites"]:
        for of, sets in each(options):
            curve = view.curve(options["run"], sets, options["metric"], suite=suite, step=options["at"])
            estimate = crossed(_less(at(curve, "last"), at(curve, "base")))
            name = f"gain of {curve.label} of {curve.run} to step {curve.steps[-1]}, {suite}{of}"
            numbers.append(number(name, estimate, curve))
    return numbers


def falls_sooner(view: View, options: Options) -> list[Number]:
    """Step of the fall of one run minus that of the other; a run that does not fall counts with the last common step.

    By seed, then the mean: seeds collapse at different times. A fall lies between two evaluated steps, which widens the
    interval. Undecided where neither run falls in any seed.
    """
    theirs = options.get("against_datasets") or options["datasets"]
    drop = options["drop"]
    numbers = []
    for of, sets in each(options):
        one = view.curve(options["run"], sets, options["metric"])
        two = view.curve(options["against"], sets if theirs == options["datasets"] else theirs, options["metric"])
        horizon = min(one.steps[-1], two.steps[-1])
        if all((fall_index(curve.by_seed, drop) < 0).all() for curve in (one, two)):
            raise Undecided(f"neither {one.run} nor {two.run} falls by {drop:g}{of}")
        a, b = (_fall_steps(curve, curve.by_seed, drop, horizon) for curve in (one, two))
        a_reps, b_reps = (_fall_steps(c, c.by_seed_replicates, drop, horizon).mean(axis=1) for c in (one, two))
        source = Resampled(
            float(a.mean() - b.mean()),
            seeds_of(a - b) if one.seed_names == two.seed_names else seeds_of(a, b),
            a_reps - b_reps,
            below=fall_spacing(one, drop, horizon), above=fall_spacing(two, drop, horizon),
        )  # fmt: skip
        numbers.append(number(f"steps to the fall of {one.label} of {one.run} minus {two.run}{of}", source, one, two))
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


def fall_spacing(curve: Curve, drop: float, horizon: float = math.inf) -> float:
    """Steps from the checkpoint before the fall to that at which it is seen: mean over seeds, 0 for one without."""
    index = fall_index(curve.by_seed, drop)
    fallen = (index >= 0) & (curve.steps[index] <= horizon)
    return float(np.where(fallen, curve.steps[index] - curve.steps[np.maximum(index - 1, 0)], 0).mean())


def at(curve: Curve, moment: int | str, among: np.ndarray | None = None) -> Values:
    """Values at a step, at `base`, `peak` or `last`. `among`: the steps that may be the peak; default: all but base."""
    if moment != "peak":
        return curve.at(curve.index(moment))
    places = np.arange(1, len(curve.steps)) if among is None else np.flatnonzero(np.isin(curve.steps, among))
    if not len(places):
        raise Undecided(f"run {curve.run} is evaluated at too few steps to have a peak among them")
    if min(each.shape[-1] for each in curve.values.values()) < 2:
        raise Undecided(f"run {curve.run} has a test set of one problem, whose halves cannot choose a peak")
    return peak_cells(curve.at(places))


def each(options: Options) -> Iterator[tuple[str, list[str]]]:
    """The test sets of each number with a suffix for its name: all sets together, or one number per set."""
    if options["each"]:
        yield from ((f" on {dataset}", [dataset]) for dataset in options["datasets"])
    else:
        yield "", list(options["datasets"])


def number(name: str, source: HasInterval, *curves: Curve, seeds: int | None = None) -> Number:
    """The number of an estimate on curves; with `seeds`, from as many seeds."""
    seeds = min(curve.seeds for curve in curves) if seeds is None else seeds
    samples = "/".join(dict.fromkeys(curve.n for curve in curves))
    problems = min(curve.problems for curve in curves)
    lo, hi = source.interval()
    return Number(name, float(source.value), float(lo), float(hi), problems, seeds, samples, source)


def _peaked(estimate: Estimate, *moments: int | str) -> Estimate:
    return widened(estimate) if "peak" in moments else estimate


def _less(values: Values, others: Values | None = None) -> Values:
    """values - others, or -values."""
    return {name: part - others[name] if others else -part for name, part in values.items()}


def _sides(one: Curve, two: Curve, a: Values, b: Values) -> tuple[Values, ...]:
    """a - b as the sides of `crossed`: paired by seed where the seeds are the same."""
    return (_less(a, b),) if one.seed_names == two.seed_names else (a, _less(b))


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
    return shared[(shared > 0) & (shared <= until)]


def _when(moment: int | str) -> str:
    return moment if isinstance(moment, str) else f"step {moment}"


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
