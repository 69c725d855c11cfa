"""Estimators on the votes of one checkpoint: the same answer to every prompt (v1 Table 1), the gap of Fig. 9."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from srt.claims.accuracy_estimators import Options, each, interval
from srt.claims.evidence import Undecided, View
from srt.claims.verdict import Number


def one_answer(view: View, options: Options) -> list[Number]:
    """Share of problems, over all test sets together, whose majority is the most common majority answer.

    A problem without a parsed answer agrees with none. Needs no true answer. Each seed has its own most common answer;
    the number is the mean over seeds. Resamples keep that answer: the largest share of each resample would be biased
    upwards where answers are many and rare, and its interval could lie above the estimate.
    """
    numbers = []
    for of, sets in each(options):
        seeds = _frames(view, options, sets)
        shares, replicates = [], []
        for parts in seeds:
            codes, _ = pd.factorize(pd.concat([part["majority"] for part in parts]))
            counts = np.concatenate([view.problem_counts(d, len(p)) for d, p in zip(sets, parts, strict=True)], axis=1)
            votes = np.eye(codes.max() + 1 if len(codes) and codes.max() >= 0 else 1)[np.maximum(codes, 0)]
            votes[codes < 0] = 0
            common = votes[:, votes.sum(axis=0).argmax()]
            shares.append(common.mean())
            replicates.append(counts @ common / len(codes))
        name = f"share of the most common majority answer of {options['run']}{of}"
        numbers.append(_over_seeds(view, options, name, shares, replicates, sum(len(part) for part in seeds[0])))
    return numbers


def gap(view: View, options: Options) -> list[Number]:
    """Accuracy of the majority minus that of parsed responses, on problems that reach the consistency threshold."""
    numbers = []
    for of, sets in each(options):
        estimate, replicates, kept, seeds = _curve(view, options, sets, options["threshold"], "gap")
        name = f"gap of {options['run']} at threshold {options['threshold']:g}{of}"
        numbers.append(Number(name, estimate, *interval(replicates), kept, seeds))
    return numbers


def gap_trend(view: View, options: Options) -> list[Number]:
    """One curve of the gap plot at the high threshold minus the same at the low one, paired by problem."""
    numbers = []
    for of, sets in each(options):
        low, low_reps, *_ = _curve(view, options, sets, options["low"], options["curve"])
        high, high_reps, kept, seeds = _curve(view, options, sets, options["high"], options["curve"])
        what = {"gap": "gap", "majority": "majority accuracy", "prompt": "per-prompt accuracy"}[options["curve"]]
        name = f"{what} of {options['run']} at threshold {options['high']:g} minus {options['low']:g}{of}"
        numbers.append(Number(name, high - low, *interval(high_reps - low_reps), kept, seeds))
    return numbers


def _curve(
    view: View, options: Options, sets: list[str], threshold: float, curve: str
) -> tuple[float, np.ndarray, int, int]:
    """One curve of the gap plot at a threshold: estimate, replicates [B], problems kept, seeds."""
    seeds = _frames(view, options, sets)
    shares, replicates, kept = [], [], 0
    for parts in seeds:
        values, reps = [], []
        for dataset, part in zip(sets, parts, strict=True):
            keep = part["consistency"].to_numpy(np.float64) >= threshold - 1e-9
            if not keep.any():
                raise Undecided(f"no problem of '{dataset}' reaches the consistency {threshold:g}")
            value = _accuracy(part, curve)
            counts = view.problem_counts(dataset, len(part))
            drawn = counts @ keep.astype(np.float64)
            total = counts @ (keep * value)
            reps.append(np.divide(total, drawn, out=np.full_like(total, np.nan), where=drawn > 0.5))
            values.append(value[keep].mean())
            kept += int(keep.sum())
        shares.append(np.mean(values))
        replicates.append(np.mean(reps, axis=0))
    weights = view.seed_weights(options["run"], len(seeds))
    return float(np.mean(shares)), (weights * np.stack(replicates, axis=1)).sum(axis=1), kept // len(seeds), len(seeds)


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


def _over_seeds(
    view: View, options: Options, name: str, shares: list[float], replicates: list[np.ndarray], problems: int
) -> Number:
    weights = view.seed_weights(options["run"], len(shares))
    joint = (weights * np.stack(replicates, axis=1)).sum(axis=1)
    return Number(name, float(np.mean(shares)), *interval(joint), problems, len(shares))


ESTIMATORS: dict[str, Callable[[View, Options], list[Number]]] = {
    "one_answer": one_answer,
    "gap": gap,
    "gap_trend": gap_trend,
}
