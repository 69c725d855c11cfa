"""The RL objective as pure functions on tensors: KL estimators, advantages, aggregation, policy loss.

Shapes: N sequences in groups of n (one prompt each, `group` [N] says which), T response tokens, `mask` [N, T] is 1 on
response tokens up to and including the first end token. Log-probabilities are natural. Nothing here knows of models,
engines or processes.

Paper: Eq. 2 to 6 (reward, policy gradient, majority) and Appendix B.1 (RLOO, the KL penalty in the reward).
docs/trainer.md derives the gradient and says how the presets combine these parts. No function changes what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["rloo", "group_mean", "group_std", "reinforce", "reinforce_pp"]
Aggregation = Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"]
Ratio = Literal["token", "sequence"]

# Estimators whose baseline is the whole batch: `advantages` must be given all N sequences of all processes at once.
BATCH_ESTIMATORS: frozenset[str] = frozenset({"reinforce", "reinforce_pp"})
EPSILON = 1e-6  # added to standard deviations (verl's)


def kl_per_token(old: Tensor, ref: Tensor, estimator: KlEstimator = "k3", clamp: float | None = None) -> Tensor:
    """Per-token estimate of KL(old || ref) from log-probs of sampled tokens, elementwise in any shape.

    With d = ref - old: k1 = -d (unbiased, can be negative), k2 = d²/2, k3 = e^d - d - 1 >= 0 (unbiased, low variance).
    `clamp` bounds the estimate to [-clamp, clamp]; the authors' code uses k3 and 10.

    As a term of the loss, differentiated through `old`, the expected gradients differ: k2's is that of
    KL(old || ref), k3's that of KL(ref || old), k1's is zero (docs/trainer.md).
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
    """Sum over tokens: [N, T] -> [N]. Masked values do not count even where they are nan or infinite."""
    return torch.where(mask.bool(), values, torch.zeros_like(values)).sum(-1)


def advantages(rewards: Tensor, group: Tensor, estimator: Advantage = "rloo", counted: Tensor | None = None) -> Tensor:
    """Advantages [N] of sequence rewards [N] within the groups that `group` [N] names, or within the batch.

    - rloo: A_i = R_i - mean of the others = n/(n-1) (R_i - mean). A group of one has advantage 0.
    - group_mean: A_i = R_i - mean (Dr. GRPO).
    - group_std: A_i = (R_i - mean) / (std + 1e-6), std with n - 1 (GRPO).
    - reinforce: A_i = R_i - mean of the batch.
    - reinforce_pp: A_i = (R_i - mean) / (std + 1e-6), mean and std over the batch (REINFORCE++).

    `counted` [N] (bool) leaves sequences out of every mean and deviation (groups without a label): their advantage is
    0 and their reward may be anything.

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long))
    tensor([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    counts = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted.bool()
    if estimator in BATCH_ESTIMATORS:
        index, size = torch.zeros_like(group), 1
    else:
        names, index = torch.unique(group, return_inverse=True)
        size = len(names)

    def total(values: Tensor) -> Tensor:
        """Sums of the counted values, one a group."""
        values = torch.where(counts, values, torch.zeros_like(values))
        return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, index, values)

    n = total(torch.ones_like(rewards))
    mean = total(rewards) / n.clamp_min(1.0)
    centered = torch.where(counts, rewards - mean[index], torch.zeros_like(rewards))
    if estimator == "rloo":
        scale = torch.where(n > 1, n / (n - 1).clamp_min(1.0), torch.zeros_like(n))
        return centered * scale[index]
    if estimator in ("group_mean", "reinforce"):
        return centered
    if estimator in ("group_std", "reinforce_pp"):
        std = (total(centered**2) / (n - 1).clamp_min(1.0)).sqrt()
        return centered / (std[index] + EPSILON)
    raise ValueError(
        f"unknown advantage estimator {estimator!r}: use rloo, group_mean, group_std, reinforce or reinforce_pp"
    )


def unanimous(rewards: Tensor, group: Tensor) -> Tensor:
    """Which sequences [N] (bool) are in a group whose rewards are all equal; give it rewards without the KL.

    With the KL in the reward, or an entropy bonus, such a group still has a gradient: leaving it out is not exact.
    """
    names, index = torch.unique(group, return_inverse=True)
    empty = torch.zeros(len(names), dtype=rewards.dtype, device=rewards.device)
    lowest = empty.scatter_reduce(0, index, rewards, "amin", include_self=False)
    highest = empty.scatter_reduce(0, index, rewards, "amax", include_self=False)
    return (lowest == highest)[index]


def sequence_weights(
    lengths: Tensor, aggregation: Aggregation = "token_mean", kept: Tensor | None = None, micro_batch: int = 32
) -> Tensor:
    """The weight w_i of every token of sequence i, float64 [N], so that loss = sum_i w_i sum_t loss_it.

    The denominator is fixed here, before the batch is split, so the gradient does not depend on micro-batches, order
    or processes.

    - token_mean: 1 / (all kept tokens).
    - token_mean_micro: mean over runs of `micro_batch` consecutive sequences of their own token means: the authors'
      form, in which a token weighs more in a micro-batch of short responses.
    - sequence_mean: 1 / (N T_i). - sequence_sum: 1 / N.

    `lengths` [N] are response lengths in tokens; `kept` [N] (bool) leaves sequences out of numerator and denominator.
    """
    lengths = lengths.to(torch.float64)
    kept = torch.ones_like(lengths, dtype=torch.bool) if kept is None else kept.bool()
    ones = kept.to(torch.float64)
    n_kept = ones.sum().clamp_min(1.0)
    if aggregation == "token_mean":
        return ones / (lengths * ones).sum().clamp_min(1.0)
    if aggregation == "token_mean_micro":
        weights = torch.zeros_like(lengths)
        chunks = [slice(i, i + micro_batch) for i in range(0, len(lengths), micro_batch)]
        for chunk in chunks:
            weights[chunk] = ones[chunk] / (lengths[chunk] * ones[chunk]).sum().clamp_min(1.0) / len(chunks)
        return weights
    if aggregation == "sequence_mean":
        return ones / (n_kept * lengths.clamp_min(1.0))
    if aggregation == "sequence_sum":
        return ones / n_kept
    raise ValueError(f"unknown aggregation {aggregation!r}: see sequence_weights")


def policy_loss(
    logprobs: Tensor,
    old: Tensor,
    advantage: Tensor,
    weights: Tensor,
    mask: Tensor,
    entropy: Tensor | None = None,
    entropy_coefficient: float = 0.0,
    clip: float | None = None,
    ratio: Ratio = "token",
    importance: Tensor | None = None,
    ref: Tensor | None = None,
    kl_coefficient: float = 0.0,
    kl_estimator: KlEstimator = "k3",
    kl_clamp: float | None = None,
) -> Tensor:
    """The loss to minimise, a scalar: -sum_i w_i sum_t m_it [c_it min(r_it A_i, clip(r_it) A_i) + e H_it - b KL_it].

    Args:
        logprobs, old: log-probs [N, T] of the response tokens under the current and the sampling policy;
            r = e^(logprobs - old). Strictly on-policy, old = logprobs.detach(), r = 1 and the gradient is that of
            REINFORCE with A.
        advantage, weights: [N]; `weights` from `sequence_weights`.
        entropy: [N, T] entropy of each predictive distribution, with gradient; needed if `entropy_coefficient` (e) is
            not 0.
        clip: PPO clip range, None for no clipping.
        ratio: `token`, or `sequence`: r_i = e^(sum_t m (logprobs - old)), one term w_i min(r_i A_i, clip(r_i) A_i) a
            sequence (TRL's RLOO). At r = 1 both have one gradient, but not one value.
        importance: [N, T] constant weights c of the policy term, applied after the minimum; from `importance_weights`.
            They are per token, so not with ratio `sequence`.
        ref: [N, T] log-probs under the reference; needed if `kl_coefficient` (b) is not 0, for a KL in the loss. Its
            gradient goes through `logprobs`; where `kl_clamp` binds it is 0.
    """
    keep = mask.bool()

    def kept(values: Tensor) -> Tensor:  # before exp, so that a masked inf leaks neither into values nor gradients
        return torch.where(keep, values, torch.zeros_like(values))

    log_ratio = kept(logprobs - old)
    if ratio == "token":
        gain = _clipped(log_ratio.exp(), advantage[:, None], clip)
        if importance is not None:
            gain = gain * kept(importance.detach())
        per_sequence = kept(gain).sum(-1)
    elif ratio == "sequence":
        if importance is not None:
            raise ValueError("importance weights are per token: use ratio 'token'")
        per_sequence = _clipped(log_ratio.sum(-1).exp(), advantage, clip)
    else:
        raise ValueError(f"unknown ratio {ratio!r}: use token or sequence")
    if entropy_coefficient:
        if entropy is None:
            raise ValueError("entropy_coefficient is set but no entropy was given")
        per_sequence = per_sequence + entropy_coefficient * kept(entropy).sum(-1)
    if kl_coefficient:
        if ref is None:
            raise ValueError("kl_coefficient is set but no log-probs of the reference were given")
        kl = kl_per_token(kept(logprobs), kept(ref.detach()), kl_estimator, kl_clamp)
        per_sequence = per_sequence - kl_coefficient * kl.sum(-1)
    return -(per_sequence * weights.to(per_sequence.dtype)).sum()


def _clipped(ratio: Tensor, advantage: Tensor, clip: float | None) -> Tensor:
    gain = ratio * advantage
    return gain if clip is None else torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantage)


def _difference(trainer: Tensor, rollout: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """trainer - rollout where both are finite and unmasked, else 0; and where that is."""
    delta = trainer.detach() - rollout.detach().to(trainer.dtype)
    usable = mask.bool() & delta.isfinite()
    return torch.where(usable, delta, torch.zeros_like(delta)), usable


def importance_weights(trainer: Tensor, rollout: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(e^(trainer - rollout), cap), [N, T], constants for the gradient.

    `trainer`, `rollout` [N, T]: log-probs of the same tokens under the same weights by the trainer and by the engine
    that sampled them, at one temperature. 0 where masked, and where a log-prob is not finite: that token is left out.
    """
    delta, usable = _difference(trainer, rollout, mask)
    return torch.where(usable, delta.clamp(max=math.log(cap)).exp(), torch.zeros_like(delta))


def mismatch(trainer: Tensor, rollout: Tensor, mask: Tensor) -> dict[str, float]:
    """How far the trainer's log-probs [N, T] are from the rollout engine's, as parts for `combine_mismatch`.

    With delta = trainer - rollout over unmasked tokens: `tokens`, `nonfinite` (tokens with a log-prob that is not
    finite, in no other number), `abs_sum` of |delta|, `abs_max`, `k3_sum` of e^delta - delta - 1, which estimates
    KL(rollout engine || trainer).
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

    Means are over tokens, whatever the split; nan where there is no token.
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
