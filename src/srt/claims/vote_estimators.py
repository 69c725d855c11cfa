"""Estimators on the votes of one checkpoint: the same answer to every prompt (v1 Table 1), the gap of Fig. 9."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from srt.claims.accuracy_estimators import Options, each
from srt.claims.evidence import Undecided, View
from srt.claims.verdict import Number
from srt.metrics.intervals import Estimate, crossed, ratio_values


def one_answer(view: View, options: Options) -> list[Number]:
    """Share of problems, over all test sets together, whose majority is the most common majority answer.

    A problem without a parsed answer agrees with none. Needs no true answer. Each seed has its own most common answer,
    which the interval keeps: the largest share of other problems would have another answer, and be too high where
    answers are many and rare. The number is the mean over seeds.
    """
    numbers = []
    for of, sets in each(options):
        agree = []
        for parts in _frames(view, options, sets):
            codes, _ = pd.factorize(pd.concat([part["majority"] for part in parts]))
            known = codes[codes >= 0]
            agree.append((codes == np.bincount(known).argmax()) if len(known) else np.zeros(len(codes), dtype=bool))
        values = np.array(agree, dtype=np.float64)
        name = f"share of the most common majority answer of {options['run']}{of}"
        numbers.append(_number(view, options, sets, name, crossed({"all": values}, share=True), *values.shape[::-1]))
    return numbers


def gap(view: View, options: Options) -> list[Number]:
    """Accuracy of the majority minus that of parsed responses, on problems that reach the consistency threshold."""
    numbers = []
    for of, sets in each(options):
        values, kept = _values(view, options, sets, options["threshold"], "gap")
        name = f"gap of {options['run']} at threshold {options['threshold']:g}{of}"
        numbers.append(_kept(view, options, sets, name, values, kept))
    return numbers


def gap_trend(view: View, options: Options) -> list[Number]:
    """One curve of the gap plot at the high threshold minus the same at the low one, paired by problem."""
    numbers = []
    for of, sets in each(options):
        low, _ = _values(view, options, sets, options["low"], options["curve"])
        high, kept = _values(view, options, sets, options["high"], options["curve"])
        what = {"gap": "gap", "majority": "majority accuracy", "prompt": "per-prompt accuracy"}[options["curve"]]
        name = f"{what} of {options['run']} at threshold {options['high']:g} minus {options['low']:g}{of}"
        difference = {dataset: high[dataset] - low[dataset] for dataset in sets}
        numbers.append(_kept(view, options, sets, name, difference, kept))
    return numbers


def _values(
    view: View, options: Options, sets: list[str], threshold: float, curve: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Values [S, P] whose means are one curve of the gap plot at a threshold, and the fewest problems kept, by set."""
    seeds = _frames(view, options, sets)
    values, kept = {}, {}
    for place, dataset in enumerate(sets):
        parts = [seed[place] for seed in seeds]
        keep = np.array([part["consistency"].to_numpy(np.float64) >= threshold - 1e-9 for part in parts], dtype=float)
        if not keep.any(axis=1).all():
            raise Undecided(f"no problem of '{dataset}' reaches the consistency {threshold:g}")
        values[dataset] = ratio_values(keep * np.array([_accuracy(part, curve) for part in parts]), keep)
        kept[dataset] = int(keep.sum(axis=1).min())
    return values, kept


def _kept(
    view: View, options: Options, sets: list[str], name: str, values: dict[str, np.ndarray], kept: dict[str, int]
) -> Number:
    """The number of values of which only the kept problems tell something."""
    estimate = crossed(values, dof={dataset: count - 1 for dataset, count in kept.items()})
    return _number(view, options, sets, name, estimate, sum(kept.values()), len(next(iter(values.values()))))


def _number(
    view: View, options: Options, sets: list[str], name: str, estimate: Estimate, problems: int, seeds: int
) -> Number:
    samples = view.n(options["run"], sets)
    return Number(name, float(estimate.value), *estimate.interval(), problems, seeds, samples, estimate)


def _accuracy(part: pd.DataFrame, curve: str) -> np.ndarray:
    """Per problem: the majority's verdict, the share of correct among parsed responses (as in Fig. 9), or their gap."""
    majority = part["majority_correct"].to_numpy(np.float64)
    parsed = part["parsed"].to_numpy(np.float64)
    correct = part["pass_rate"].to_numpy(np.float64) * part["n"].to_numpy(np.float64)
    prompt = np.minimum(np.divide(correct, parsed, out=np.zeros(len(part)), where=parsed > 0), 1.0)
    return {"majority": majority, "prompt": prompt, "gap": majority - prompt}[curve]


def _frames(view: View, options: Options, sets: list[str]) -> list[list[pd.DataFrame]]:
    """The groups at the moment, [seeds][data sets]; seeds that share one checkpoint (step 0) count once."""
    entry = view.evidence.spec["runs"][options["run"]]
    steps = [0, *entry["steps"]]
    moment = {"base": 0, "last": steps[-1]}.get(str(options["at"]), options["at"])
    if int(moment) not in steps:
        raise Undecided(f"run {options['run']} stops at step {steps[-1]}, before step {moment}")
    index = steps.index(int(moment))
    seeds = range(1 if index == 0 and len(set(entry["starts"])) == 1 else len(entry["instances"]))
    return [[view.evidence.frames(options["run"], dataset)[seed][index] for dataset in sets] for seed in seeds]


ESTIMATORS: dict[str, Callable[[View, Options], list[Number]]] = {
    "one_answer": one_answer,
    "gap": gap,
    "gap_trend": gap_trend,
}
