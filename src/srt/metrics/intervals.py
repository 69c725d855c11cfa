"""The intervals of figures and claims: means over problems crossed with seeds, and steps found on noisy curves.

Problems and seeds are both samples: another test set of the same kind would hold other problems, another training run
would have another seed. `crossed` estimates the two variances of a mean and adds them, each with the t quantile of its
own degrees of freedom (Banerjee 1960). The interval then covers with three seeds as with ten, whichever of the two
dominates; `srt coverage` simulates it. With one seed nothing is known of seeds: the interval is over problems only.

Every interval is a function of its level: an `Estimate` gives the 95 % interval of a figure, and the p-value of a claim
is the largest level that still decides it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

N_BOOT = 2000
LEVEL = 0.95
_CHUNK = 1 << 21  # indices drawn at once: bounds memory to about 32 MB whatever the number of problems
_NOTHING = 1e-24  # a squared width of rounding errors alone

# By name of the data set, a value for each seed and problem: float [..., S, P].
Cells = Mapping[str, np.ndarray]


class HasInterval(Protocol):
    """A number with an interval for each level."""

    value: Any

    def interval(self, level: float = LEVEL) -> tuple[Any, Any]:
        """Both ends."""


@dataclass(frozen=True)
class Estimate:
    """A mean with the variances of its interval; floats, or arrays over simulated data sets.

    seeds: (variance of the mean, degrees of freedom) of each independent group of seeds. problems: the same of each set
    of problems, less what the seeds' variance already holds of it, so that an entry can be negative. share: number of
    problems if the values are shares in [0, 1], whose intervals stay in that range; None for differences.
    """

    value: Any
    seeds: tuple[tuple[Any, int], ...]
    problems: tuple[tuple[Any, int], ...]
    share: int | None = None

    def interval(self, level: float = LEVEL) -> tuple[Any, Any]:
        """Both ends; NaN with one problem, which has no spread, equal ends where nothing varies."""
        squared = np.maximum(sum(t_quantile(level, dof) ** 2 * variance for variance, dof in self.problems), 0.0)
        squared = squared + sum(t_quantile(level, dof) ** 2 * variance for variance, dof in self.seeds)
        squared = np.where(squared < _NOTHING, 0.0, squared)
        half = np.sqrt(squared)
        lo, hi = self.value - half, self.value + half
        if self.share is not None:
            lo, hi = self._within_bounds(lo, hi, squared, level)
        return (lo, hi) if np.ndim(lo) else (float(lo), float(hi))

    def _within_bounds(self, lo: Any, hi: Any, squared: Any, level: float) -> tuple[Any, Any]:
        """The interval of a share, widened by Wilson's near 0 and 1, where a symmetric one covers too rarely.

        Wilson's interval of k² = half²/(m (1 - m)) has the centre (m + k²/2)/(1 + k²). Few problems tell little of the
        spread where most are alike: k² grows by what one more problem, a trial of its own, would add. Where all values
        are 0, or all are 1, each problem counts as one trial.
        """
        mean, size = np.clip(self.value, 0.0, 1.0), max(self.share or 1, 2)
        spread, trial = mean * (1 - mean), t_quantile(level, size - 1) ** 2 / size
        some = (squared > 0) & (spread > 0)
        ratio = np.where(some, squared / np.where(some, spread, 1.0) + trial / size, 0.0)
        ratio = np.where(spread > 1e-12, ratio, trial)
        centre = (mean + ratio / 2) / (1 + ratio)
        half = np.sqrt(spread * ratio + ratio**2 / 4) / (1 + ratio)
        return np.maximum(np.minimum(lo, centre - half), 0.0), np.minimum(np.maximum(hi, centre + half), 1.0)


@dataclass(frozen=True)
class Resampled:
    """A number that is no mean, such as the step of a peak: its spread over problems is found by resampling them.

    seeds: as in `Estimate`, of the numbers of single seeds. replicates [B]: the number on resampled problems, mean over
    seeds. below, above: how far the truth can lie on each side because checkpoints are some steps apart. least: a bound
    of the number, such as 0 of a distance.
    """

    value: float
    seeds: tuple[tuple[float, int], ...]
    replicates: np.ndarray
    below: float = 0.0
    above: float = 0.0
    least: float = -math.inf

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends: the distances to the quantiles of the replicates and the seeds' t interval, added as squares."""
        known = self.replicates[~np.isnan(self.replicates)]
        if not len(known) or math.isnan(self.value):
            return math.nan, math.nan
        # inverted_cdf: ends are values that occur, so that infinity is never interpolated
        ends = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        if math.isinf(self.value):
            return (self.value, float(ends[1])) if self.value < 0 else (float(ends[0]), self.value)
        seeds = sum(t_quantile(level, dof) ** 2 * variance for variance, dof in self.seeds)
        lo = self.value - math.sqrt(max(self.value - ends[0], 0.0) ** 2 + seeds) - self.below
        hi = self.value + math.sqrt(max(ends[1] - self.value, 0.0) ** 2 + seeds) + self.above
        return max(lo, self.least), hi


def crossed(*sides: Cells, share: bool = False, dof: Mapping[str, int] | None = None) -> Estimate:
    """Mean over data sets of the mean over seeds and problems, summed over `sides`.

    A side holds values [..., S, P] of the same seeds on each data set; each data set weighs the same, as in the paper's
    averages over test sets. Values of one side are paired by seed and problem; those of different sides by problem
    alone, where they name the same data set: subtract a run with the same seeds within one side, and give a run with
    other seeds, negated, as a second side.

    With a_s the effect of a seed, b_p that of a problem and e_sp the rest, the variance of a mean over S seeds and P
    problems is var(a)/S + var(b)/P + var(e)/(SP). The variance of the seeds' means estimates the first and the third
    term, that of the problems' means the second and the third; var(e) comes from the residuals and counts once.

    Args:
        share: the values are shares in [0, 1].
        dof: degrees of freedom of a data set's problems, where fewer than its problems count; default P - 1.
    """
    total: Any = 0.0
    seeds: list[tuple[Any, int]] = []
    effects: dict[str, Any] = {}  # problems' means over seeds, summed over sides
    rest: dict[str, Any] = {}  # variance of the residuals' means, which the seeds' variance holds already
    for side in sides:
        by_seed: Any = 0.0
        for name, values in side.items():
            values = np.asarray(values, dtype=np.float64) / len(side)
            count, problems = values.shape[-2:]
            means, effect = values.mean(axis=-1), values.mean(axis=-2)
            by_seed = by_seed + means
            effects[name] = effects[name] + effect if name in effects else effect
            if count > 1 and problems > 1:
                residual = values - means[..., None] - (effect - effect.mean(axis=-1, keepdims=True))[..., None, :]
                variance = (residual**2).sum(axis=(-2, -1)) / ((count - 1) * (problems - 1))
                rest[name] = rest.get(name, 0.0) + variance / (count * problems)
        total = total + by_seed.mean(axis=-1)
        if by_seed.shape[-1] > 1:
            seeds.append((by_seed.var(axis=-1, ddof=1) / by_seed.shape[-1], by_seed.shape[-1] - 1))
    problems_ = []
    for name, effect in effects.items():
        size = effect.shape[-1]
        free = size - 1 if dof is None else dof.get(name, size - 1)
        variance = effect.var(axis=-1, ddof=1) / size if size > 1 and free > 0 else np.full(effect.shape[:-1], np.nan)
        problems_.append((variance - rest.get(name, 0.0), max(free, 1)))
    count = sum(effect.shape[-1] for effect in effects.values())
    return Estimate(total if np.ndim(total) else float(total), tuple(seeds), tuple(problems_), count if share else None)


@dataclass(frozen=True)
class Ratio:
    """A ratio, whose interval is symmetric in the logarithm; `log` is the estimate of ln(ratio/value), 0 by itself."""

    value: float
    log: Estimate

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends."""
        lo, hi = self.log.interval(level)
        return self.value * math.exp(min(lo, 700)), self.value * math.exp(min(hi, 700))


def ratio_of(above: Cells, below: Cells, paired: bool = True) -> Ratio:
    """The ratio of two means (`crossed`), both above 0; `paired`: both have the same seeds, in the same order."""
    (top, one), (base, two) = (
        (mean, {name: part / mean for name, part in cells.items()})
        for cells in (above, below)
        for mean in [crossed(cells).value]
    )
    less = {name: -part for name, part in two.items()}
    sides = ({name: part + less[name] for name, part in one.items()},) if paired else (one, less)
    log = crossed(*sides)
    return Ratio(top / base, Estimate(0.0, log.seeds, log.problems))


def seeds_of(*sides: np.ndarray) -> tuple[tuple[float, int], ...]:
    """The part of an interval that comes from the seeds: numbers [S] of single seeds, one array per group of seeds.

    NaN marks a seed that has no such number, such as one that does not fall.
    """
    known = [side[~np.isnan(side)] for side in sides]
    return tuple((float(side.var(ddof=1)) / len(side), len(side) - 1) for side in known if len(side) > 1)


def mean_interval(strata: Sequence[np.ndarray], share: bool = True) -> tuple[float, float, float]:
    """Mean over data sets of the mean over seeds and problems, with its 95 % interval: (mean, lo, hi).

    `strata` holds one array [seeds, problems] per data set, with the same seeds in each. `share`: the values are shares
    in [0, 1], not differences.

    >>> mean_interval([np.array([[0.0, 1.0, 0.0, 1.0]])])[0]
    0.5
    """
    seeds = strata[0].shape[0]
    if any(values.ndim != 2 or values.shape[0] != seeds for values in strata):
        raise ValueError("each data set needs an array [seeds, problems] with the same seeds")
    estimate = crossed({str(place): values for place, values in enumerate(strata)}, share=share)
    return estimate.value, *estimate.interval()


def one_run_interval(values: np.ndarray, share: bool = True) -> tuple[float, float, float]:
    """Mean over the problems of one run, with its 95 % interval over problems: (mean, lo, hi).

    `values` [P], one number per problem: a pass rate, a 0/1 majority verdict, or (not `share`) the difference of two on
    the same problem, whose pairing removes the spread between easy and hard problems. Without a problem all three are
    NaN, with one both ends are.

    >>> [round(number, 2) for number in one_run_interval(np.array([0.0, 1.0] * 15))]
    [0.5, 0.31, 0.69]
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"values must be one finite number per problem, not of the shape {array.shape} or with NaN")
    if not len(array):
        return math.nan, math.nan, math.nan
    return mean_interval([array[None]], share)


def ratio_values(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Values [S, P] whose mean over problems is sum(numerators)/sum(denominators) of each seed, to first order.

    The ratio of a seed plus what each problem adds to it (its influence); a seed whose denominators are all 0 is NaN.
    """
    whole, parts = denominators.sum(axis=1, keepdims=True), numerators.sum(axis=1, keepdims=True)
    ratio = np.divide(parts, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    size = denominators.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return ratio + np.where(whole > 0, (numerators - ratio * denominators) * size / whole, np.nan)


def ratio_interval(strata: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Mean over data sets and seeds of sum(numerator) / sum(denominator) over problems, with its interval.

    `strata` holds (numerators, denominators), each [seeds, problems], one pair per data set. A seed whose denominators
    are all 0 in some data set is left out; without any seed the result is NaN.
    """
    values = [ratio_values(*pair) for pair in strata]
    known = np.logical_and.reduce([np.isfinite(each).all(axis=1) for each in values])
    if not known.any():
        return math.nan, math.nan, math.nan
    return mean_interval([each[known] for each in values])


def kept_mean_intervals(values: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of the mean over kept problems.

    `values` float [P] in [0, 1], `keep` bool [P, T] (which problems each of T thresholds keeps). Returns (lo [T],
    hi [T]), NaN where a threshold keeps fewer than two problems.
    """
    nothing = (math.nan, math.nan, math.nan)
    found = [mean_interval([values[None, some]]) if some.sum() > 1 else nothing for some in keep.T]
    return np.array([lo for _, lo, _ in found]), np.array([hi for _, _, hi in found])


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


_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@lru_cache(maxsize=4096)
def t_quantile(level: float, dof: int) -> float:
    """The x with P(-x < T < x) = level for Student's t with `dof` degrees of freedom, to 10 digits.

    T = sqrt(dof) tan(u), and the density of u is proportional to cos(u)^(dof - 1): Gauss-Legendre up to u, bisection.

    >>> round(t_quantile(0.95, 2), 4)
    4.3027
    """
    scale = 2 * math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    lo, hi = 0.0, math.pi / 2
    for _ in range(60):
        middle = (lo + hi) / 2
        inside = scale * middle / 2 * float(_WEIGHTS @ np.cos((_POINTS + 1) * middle / 2) ** (dof - 1))
        lo, hi = (middle, hi) if inside < level else (lo, middle)
    return math.sqrt(dof) * math.tan(lo)
