"""The RL objective as pure functions on tensors: KL estimators, advantages, aggregation, policy loss.

Shapes: N sequences in groups of n (one prompt each, `group` [N] says which), T response tokens, `mask` [N, T] is 1 on
response tokens up to and including the first end token. Log-probabilities are natural. Nothing here knows of models,
engines or processes.

Paper: Eq. 2 (RLOO) and Appendix B.1 (the KL penalty goes into the reward). The presets differ in aggregation, entropy
and the treatment of groups without any parsable answer; see docs/trainer.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["rloo", "group_mean", "group_std"]
Aggregation = Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"]


def kl_per_token(old: Tensor, ref: Tensor, estimator: KlEstimator = "k3", clamp: float | None = None) -> Tensor:
    """Per-token estimate of KL(old || ref) from log-probs of sampled tokens, elementwise in any shape.

    With d = ref - old: k1 = -d (unbiased, can be negative), k2 = d²/2, k3 = e^d - d - 1 >= 0 (unbiased, low variance).
    `clamp` bounds the estimate to [-clamp, clamp]; the authors' code uses k3 and 10.
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


def advantages(rewards: Tensor, group: Tensor, estimator: Advantage = "rloo") -> Tensor:
    """Advantages [N] of sequence rewards [N] within the groups that `group` [N] names.

    - rloo: A_i = R_i - mean of the others = n/(n-1) (R_i - mean). A group of one has advantage 0.
    - group_mean: A_i = R_i - mean (Dr. GRPO).
    - group_std: A_i = (R_i - mean) / (std + 1e-6), std with n - 1 (GRPO).

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long))
    tensor([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    names, index = torch.unique(group, return_inverse=True)
    count = torch.zeros(len(names), dtype=rewards.dtype, device=rewards.device).index_add_(
        0, index, torch.ones_like(rewards)
    )
    total = torch.zeros_like(count).index_add_(0, index, rewards)
    centered = rewards - (total / count)[index]
    if estimator == "rloo":
        scale = torch.where(count > 1, count / (count - 1).clamp_min(1.0), torch.zeros_like(count))
        return centered * scale[index]
    if estimator == "group_mean":
        return centered
    if estimator == "group_std":
        squares = torch.zeros_like(count).index_add_(0, index, centered**2)
        std = (squares / (count - 1).clamp_min(1.0)).sqrt()
        return centered / (std[index] + 1e-6)
    raise ValueError(f"unknown advantage estimator {estimator!r}: use rloo, group_mean or group_std")


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
) -> Tensor:
    """The loss to minimise, a scalar: -sum_it w_i m_it [min(r A, clip(r) A) + entropy_coefficient H_it].

    Args:
        logprobs, old: log-probs [N, T] of the response tokens under the current and the sampling policy;
            r = e^(logprobs - old). Strictly on-policy, old = logprobs.detach(), r = 1 and the gradient is that of
            REINFORCE with A.
        advantage, weights: [N]; `weights` from `sequence_weights`.
        entropy: [N, T] entropy of each predictive distribution, with gradient; needed if entropy_coefficient is not 0.
        clip: PPO clip range, None for no clipping.
    """
    keep = mask.bool()
    log_ratio = torch.where(keep, logprobs - old, torch.zeros_like(logprobs))  # before exp: masked inf cannot leak
    ratio = log_ratio.exp()
    gain = ratio * advantage[:, None]
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantage[:, None])
    if entropy_coefficient:
        if entropy is None:
            raise ValueError("entropy_coefficient is set but no entropy was given")
        gain = gain + entropy_coefficient * torch.where(keep, entropy, torch.zeros_like(entropy))
    per_sequence = torch.where(keep, gain, torch.zeros_like(gain)).sum(-1)
    return -(per_sequence * weights.to(per_sequence.dtype)).sum()
