"""Advantages: how much better a response's reward is than those of its group (paper Eq. 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from srt.config.train import Advantage


EPSILON = 1e-6  # added to standard deviations, as verl does


def advantages(rewards: Tensor, group: Tensor, estimator: Advantage = "rloo", counted: Tensor | None = None) -> Tensor:
    """Advantages [N] of the rewards [N] of N sequences, each within the group that `group` [N] names.

    - rloo: A_i = R_i - mean of the others = n/(n-1) (R_i - mean). A group of one has advantage 0.
    - group_std: A_i = (R_i - mean) / (std + 1e-6), std with n - 1 (GRPO).

    Sequences that are False in `counted` [N] (groups without a label) are in no mean and no deviation: their advantage
    is 0, whatever their reward.

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long))
    tensor([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    counts = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted.bool()
    names, index = torch.unique(group, return_inverse=True)

    def total(values: Tensor) -> Tensor:
        """The sum of the counted values of each group."""
        values = torch.where(counts, values, torch.zeros_like(values))
        return torch.zeros(len(names), dtype=values.dtype, device=values.device).index_add_(0, index, values)

    n = total(torch.ones_like(rewards))
    mean = total(rewards) / n.clamp_min(1.0)
    centered = torch.where(counts, rewards - mean[index], torch.zeros_like(rewards))
    if estimator == "rloo":
        scale = torch.where(n > 1, n / (n - 1).clamp_min(1.0), torch.zeros_like(n))
        return centered * scale[index]
    if estimator == "group_std":
        std = (total(centered**2) / (n - 1).clamp_min(1.0)).sqrt()
        return centered / (std[index] + EPSILON)
    raise ValueError(f"unknown advantage estimator {estimator!r}: use rloo or group_std")


def unanimous(rewards: Tensor, group: Tensor) -> Tensor:
    """Which sequences [N] (bool) are in a group whose rewards, before the KL penalty, are all equal.

    With the KL in the reward, or an entropy bonus, such a group still has a gradient: leaving it out is not exact.
    """
    names, index = torch.unique(group, return_inverse=True)
    empty = torch.zeros(len(names), dtype=rewards.dtype, device=rewards.device)
    lowest = empty.scatter_reduce(0, index, rewards, "amin", include_self=False)
    highest = empty.scatter_reduce(0, index, rewards, "amax", include_self=False)
    return (lowest == highest)[index]
