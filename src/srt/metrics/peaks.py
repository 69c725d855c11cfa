"""Peaks judged on other data than they are chosen on.

The best of many noisy values is too high by about their noise: without any effect, "the best checkpoint is better than
the base model" would be true of most runs. So the step is chosen on one half of the problems (and of the seeds, where
there are several) and its value read on the other half, both ways round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from srt.metrics.intervals import Estimate

# The halves choose for each other, so their errors are correlated. For T equally good steps with independent errors the
# correlation is m²/(T - 1), m the mean of the largest of T standard normal values: at most 0.36, at T = 3.
_CORRELATION = 0.36


def choose(values: Mapping[str, np.ndarray], seed: int, half: int) -> np.ndarray:
    """Index [...] of the best step for the problems of one half (0, 1) and a seed: by the other half and other seeds.

    `values` [..., S, T, P] by data set, each of equal weight; ties go to the earliest step. The halves are the even and
    the odd positions of problems and of seeds.
    """
    seeds = next(iter(values.values())).shape[-3]
    others = [other for other in range(seeds) if other % 2 != seed % 2] or [seed]
    means = [each[..., others, :, 1 - half :: 2].mean(axis=(-3, -1)) for each in values.values()]
    return sum(means).argmax(axis=-1)


def peak_cells(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values [..., S, P] by data set at the peak, each read at the step that other problems and seeds chose.

    `values` [..., S, T, P]: the steps that may be the peak.
    """
    out = {name: np.empty((*each.shape[:-2], each.shape[-1])) for name, each in values.items()}
    for seed in range(next(iter(values.values())).shape[-3]):
        for half in (0, 1):
            best = choose(values, seed, half)[..., None, None]
            for name, each in values.items():
                part = each[..., seed, :, half::2]
                out[name][..., seed, half::2] = np.take_along_axis(part, best, axis=-2)[..., 0, :]
    return out


def widened(estimate: Estimate) -> Estimate:
    """The estimate with variances that allow for the correlation of the two halves of a peak."""
    factor = 1 + _CORRELATION
    return Estimate(
        estimate.value,
        tuple((variance * factor, dof) for variance, dof in estimate.seeds),
        tuple((variance * factor, dof) for variance, dof in estimate.problems),
        estimate.share,
    )
