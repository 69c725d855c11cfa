"""How far trainer and rollout engine disagree on the log-probs of sampled tokens, and weights that correct for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from srt.objective.kl import kl_per_token


def _difference(trainer: Tensor, rollout: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """trainer - rollout where both are finite and unmasked, else 0; and the mask of those tokens."""
    delta = trainer.detach() - rollout.detach().to(trainer.dtype)
    usable = mask.bool() & delta.isfinite()
    return torch.where(usable, delta, torch.zeros_like(delta)), usable


def importance_weights(trainer: Tensor, rollout: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(e^(trainer - rollout), cap), [N, T], constants for the gradient.

    `trainer`, `rollout` [N, T]: log-probs of the same tokens under the same weights by the trainer and by the engine
    that sampled them, at one temperature. The weight is 0 where a token is masked or a log-prob is not finite.
    """
    delta, usable = _difference(trainer, rollout, mask)
    return torch.where(usable, delta.clamp(max=math.log(cap)).exp(), torch.zeros_like(delta))


def row_differences(trainer: Tensor, rollout: Tensor, mask: Tensor) -> Tensor:
    """The mean |trainer - rollout| over the tokens of each response [N]; nan or inf where a log-prob is not finite."""
    delta = (trainer.detach().double() - rollout.double()).abs()
    return torch.where(mask, delta, torch.zeros_like(delta)).sum(-1) / mask.sum(-1)


def mismatch(trainer: Tensor, rollout: Tensor, mask: Tensor) -> dict[str, float]:
    """The difference of the trainer's and the rollout engine's log-probs [N, T], as parts for `combine_mismatch`.

    With delta = trainer - rollout over unmasked tokens: `tokens`, `nonfinite` (tokens with a log-prob that is not
    finite; no other number counts them), `abs_sum` of |delta|, `abs_max`, `k3_sum` of e^delta - delta - 1, which
    estimates KL(rollout engine || trainer).
    """
    delta, usable = _difference(trainer.double(), rollout, mask)
    size, count = delta.abs(), usable.sum()
    parts = {
        "tokens": count,
        "nonfinite": mask.bool().sum() - count,
        "abs_sum": size.sum(),
        "abs_max": size.max() if size.numel() else size.sum(),
        "k3_sum": kl_per_token(torch.zeros_like(delta), delta, "k3").sum(),
    }
    return dict(zip(parts, torch.stack([v.double() for v in parts.values()]).tolist(), strict=True))


def combine_mismatch(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """One result from the parts of all micro-batches and processes: tokens, nonfinite, mean_abs, max_abs, k3.

    Means are over all tokens, however they are split into parts; nan without a token.
    """
    rows = list(parts)
    tokens = sum(row["tokens"] for row in rows)
    return {
        "tokens": tokens,
        "nonfinite": sum(row["nonfinite"] for row in rows),
        "mean_abs": math.fsum(row["abs_sum"] for row in rows) / tokens if tokens else math.nan,
        "max_abs": max((row["abs_max"] for row in rows), default=0.0) if tokens else math.nan,
        "k3": math.fsum(row["k3_sum"] for row in rows) / tokens if tokens else math.nan,
    }
