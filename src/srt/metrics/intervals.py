"""Intervals of figures and claims: one bootstrap for one run or several seeds, one data set or the mean of several.

Each replicate draws, with replacement, problems within each data set, so that a large set does not outweigh a small
one; where a line has several seeds, it draws the seeds as well. All seeds see the same drawn problems. With one data
set and one seed the result is `srt.metrics.statistics.bootstrap_mean`, to the same digits. The draws depend only on the
number of problems and the position of the data set, so all steps of a curve share them and its band is smooth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

N_BOOT = 2000
LEVEL = 0.95
SEED_OF_SEEDS = 10_007  # keeps the draw of seeds apart from the draws of problems (seeds 0, 1, 2, ...)
_CHUNK = 1 << 21  # indices drawn at once, as in `srt.metrics.statistics.bootstrap_mean`: the same draws, bounded memory
_ROWS = 250  # replicates at once: 17,000 problems then need 34 MB


@lru_cache(maxsize=32)
def draw_counts(size: int, seed: int, n_boot: int = N_BOOT) -> np.ndarray:
    """How often each of `size` units is drawn in each replicate: uint16 [n_boot, size], every row sums to `size`."""
    generator = np.random.default_rng(seed)
    counts = np.empty((n_boot, size), dtype=np.uint16)
    rows = max(1, _CHUNK // size)
    for start in range(0, n_boot, rows):
        some = min(rows, n_boot - start)
        drawn = generator.integers(0, size, (some, size)) + np.arange(some)[:, None] * size
        counts[start : start + some] = np.bincount(drawn.ravel(), minlength=some * size).reshape(some, size)
    return counts


def count_blocks(size: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """`draw_counts` in blocks of replicates, to bound memory: (which rows, float64 [rows, size])."""
    counts = draw_counts(size, seed)
    for start in range(0, len(counts), _ROWS):
        rows = slice(start, min(start + _ROWS, len(counts)))
        yield rows, counts[rows].astype(np.float64)


def percentile_interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The central `level` interval of bootstrap replicates; NaN replicates (nothing was drawn) are left out."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return float("nan"), float("nan")
    lo, hi = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def mean_interval(strata: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean over data sets of the mean over seeds and problems, with its bootstrap interval.

    `strata` holds one array [seeds, problems] per data set, with the same seeds in each. Every data set weighs the
    same, as in the paper's averages over test sets. Returns (mean, lo, hi).

    >>> mean_interval([np.ones((1, 4)), np.zeros((1, 2))])
    (0.5, 0.5, 0.5)
    """
    seeds = strata[0].shape[0]
    if any(values.ndim != 2 or values.shape[0] != seeds for values in strata):
        raise ValueError("each data set needs an array [seeds, problems] with the same seeds")
    mean = float(np.mean([values.mean() for values in strata]))
    seed_counts = draw_counts(seeds, SEED_OF_SEEDS).astype(np.float64)
    total = np.zeros(N_BOOT)
    for position, values in enumerate(strata):
        for rows, counts in count_blocks(values.shape[1], position):
            # Counts first and one division: a replicate of equal values is that value to the last bit.
            total[rows] += np.sum((counts @ values.T) * seed_counts[rows], axis=1) / values.size
    return mean, *percentile_interval(total / len(strata))


def ratio_interval(strata: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Mean over data sets and seeds of sum(numerator) / sum(denominator) over problems, with its bootstrap interval.

    `strata` holds (numerators, denominators), each [seeds, problems], one pair per data set; problems and seeds are
    drawn as in `mean_interval`. A seed whose denominators are all 0 is left out; without any seed the result is NaN.
    """
    seeds = strata[0][0].shape[0]
    seed_counts = draw_counts(seeds, SEED_OF_SEEDS).astype(np.float64)
    total = np.zeros(N_BOOT)
    means = []
    for position, (numerators, denominators) in enumerate(strata):
        whole, parts = denominators.sum(axis=1), numerators.sum(axis=1)
        ratios = np.divide(parts, whole, out=np.full(seeds, np.nan), where=whole > 0)
        if np.isnan(ratios).all():
            return float("nan"), float("nan"), float("nan")
        means.append(np.nanmean(ratios))
        for rows, counts in count_blocks(numerators.shape[1], position):
            drawn = counts @ denominators.T
            ratio = np.divide(counts @ numerators.T, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0)
            weight = seed_counts[rows] * np.isfinite(ratio)
            weighted = np.sum(np.nan_to_num(ratio) * weight, axis=1)
            there = weight.sum(axis=1)
            total[rows] += np.divide(weighted, there, out=np.full(len(there), np.nan), where=there > 0)
    return float(np.mean(means)), *percentile_interval(total / len(strata))


def kept_mean_intervals(values: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of the mean over kept problems; the number of kept problems is resampled as well.

    `values` float [P], `keep` bool [P, T] (which problems each of T thresholds keeps). Returns (lo [T], hi [T]), NaN
    where a threshold keeps nothing.
    """
    replicates = np.empty((N_BOOT, keep.shape[1]))
    kept, kept_values = keep.astype(np.float64), keep * values[:, None]
    for rows, counts in count_blocks(len(values), 0):
        drawn, total = counts @ kept, counts @ kept_values
        # A replicate that drew none of the kept problems has no mean: NaN, left out by `percentile_interval`.
        replicates[rows] = np.divide(total, drawn, out=np.full_like(total, np.nan), where=drawn > 0.5)
    pairs = [percentile_interval(column) for column in replicates.T]
    return np.array([lo for lo, _ in pairs]), np.array([hi for _, hi in pairs])
