"""Estimates of KL(policy || reference) from the log-probs of sampled tokens; docs/trainer.md has their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from srt.config.train import KlEstimator


def kl_per_token(old: Tensor, ref: Tensor, estimator: KlEstimator = "k3", clamp: float | None = None) -> Tensor:
    """Per-token estimate of KL(old || ref) from log-probs of sampled tokens, elementwise in any shape.

    With d = ref - old: k1 = -d (unbiased, can be negative), k2 = d²/2, k3 = e^d - d - 1 >= 0 (unbiased, low variance).
    `clamp` bounds the estimate to [-clamp, clamp]; the authors' code uses k3 and 10.

    As a term of the loss, differentiated through `old`, the expected gradients differ: that of k2 is the gradient of
    KL(old || ref), that of k3 the gradient of KL(ref || old), that of k1 is zero.
    """
    d = ref - old
    if estimator == "k1":
        kl = -d
    elif estimator == "k2":
        kl = 0.5 * d * d
    elif estimator == "k3":
        kl = torch.exp(d) - d - 1.0
    else:
        raise ValueError(f"unknown KL estimator {estimator!r}: use k1, k2 or k3")
    return kl if clamp is None else kl.clamp(-clamp, clamp)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the unmasked tokens: [N, T] -> [N]. Masked values may be nan or infinite."""
    return torch.where(mask.bool(), values, torch.zeros_like(values)).sum(-1)
