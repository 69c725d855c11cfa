"""The policy loss, and the weight of each token in it: one denominator for the whole batch (paper Eq. 4, Appendix B.1).

Shapes: N sequences, T response tokens, `mask` [N, T] is 1 on response tokens up to and including the first end token.
Log-probabilities are natural. docs/trainer.md says how the presets combine the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srt.objective.kl import kl_per_token

if TYPE_CHECKING:
    from srt.config.train import Aggregation, KlEstimator, Ratio


def sequence_weights(
    lengths: Tensor, aggregation: Aggregation = "token_mean", kept: Tensor | None = None, micro_batch: int = 32
) -> Tensor:
    """The weight w_i of every token of sequence i, float64 [N], so that loss = sum_i w_i sum_t loss_it.

    The denominator is fixed before the batch is split, so that the gradient depends neither on micro-batches nor on
    their order nor on the number of processes.

    - token_mean: 1 / (all kept tokens).
    - token_mean_micro: mean over runs of `micro_batch` consecutive sequences of their own token means: the authors'
      form, in which a token weighs more in a micro-batch of short responses.
    - sequence_mean: 1 / (N T_i). - sequence_sum: 1 / N.

    `lengths` [N] are response lengths in tokens. Sequences that are False in `kept` [N] are in neither numerator nor
    denominator.
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


@dataclass(frozen=True)
class LossOptions:
    """What `policy_loss` adds to the REINFORCE term, and how it weighs a policy that has moved since sampling.

    Args:
        clip: PPO clip range; None: no clipping.
        clip_high: the range above 1 (DAPO's Clip-Higher); None: that of `clip`.
        ratio: `token`, or `sequence`: r_i = e^(sum_t m (logprobs - old)), one term w_i min(r_i A_i, clip(r_i) A_i) per
            sequence (TRL's RLOO), or `gspo`: r_i = e^(mean_t of the same), one term w_i T_i min(r_i A_i, clip(r_i) A_i)
            (GSPO, Zheng et al. 2025, with `sequence_mean`). At r = 1 all have the same gradient, not the same value.
        entropy_coefficient: e, of the entropy bonus.
        kl_coefficient: b, of a KL in the loss; 0 where the KL is in the reward. `kl_estimator`, `kl_clamp`: as in
            `kl_per_token`. The gradient goes through `logprobs`; where `kl_clamp` binds it is 0.
    """

    clip: float | None = None
    ratio: Ratio = "token"
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: KlEstimator = "k3"
    kl_clamp: float | None = None
    clip_high: float | None = None


def policy_loss(
    logprobs: Tensor,
    old: Tensor,
    advantage: Tensor,
    weights: Tensor,
    mask: Tensor,
    options: LossOptions | None = None,
    *,
    entropy: Tensor | None = None,
    importance: Tensor | None = None,
    ref: Tensor | None = None,
) -> Tensor:
    """The loss to minimise, a scalar: -sum_i w_i sum_t m_it [c_it min(r_it A_i, clip(r_it) A_i) + e H_it - b KL_it].

    Args:
        logprobs, old: log-probs [N, T] of the response tokens under the current and the sampling policy;
            r = e^(logprobs - old). Strictly on-policy, old = logprobs.detach(), r = 1 and the gradient is that of
            REINFORCE with A.
        advantage, weights: [N]; `weights` from `sequence_weights`.
        mask: [N, T], 1 on response tokens.
        options: None for the defaults.
        entropy: [N, T] entropy of each predictive distribution, with gradient; needed for an entropy bonus.
        importance: [N, T] constant weights c of the policy term, applied after the minimum; from `importance_weights`
            (srt.objective.mismatch). They are per token, so allowed with ratio `token` only.
        ref: [N, T] log-probs under the reference; needed for a KL in the loss.
    """
    options = options or LossOptions()
    keep = mask.bool()

    def kept(values: Tensor) -> Tensor:  # before exp, so that a masked inf leaks neither into values nor gradients
        return torch.where(keep, values, torch.zeros_like(values))

    log_ratio = kept(logprobs - old)
    if options.ratio == "token":
        gain = _clipped(log_ratio.exp(), advantage[:, None], options)
        if importance is not None:
            gain = gain * kept(importance.detach())
        per_sequence = kept(gain).sum(-1)
    elif options.ratio in ("sequence", "gspo"):
        if importance is not None:
            raise ValueError("importance weights are per token: use ratio 'token'")
        if options.ratio == "sequence":
            per_sequence = _clipped(log_ratio.sum(-1).exp(), advantage, options)
        else:
            length = keep.sum(-1).to(log_ratio)
            mean = log_ratio.sum(-1) / length.clamp_min(1.0)
            per_sequence = length * _clipped(mean.exp(), advantage, options)
    else:
        raise ValueError(f"unknown ratio {options.ratio!r}: use token, sequence or gspo")
    if options.entropy_coefficient:
        if entropy is None:
            raise ValueError("entropy_coefficient is set but no entropy was given")
        per_sequence = per_sequence + options.entropy_coefficient * kept(entropy).sum(-1)
    if options.kl_coefficient:
        if ref is None:
            raise ValueError("kl_coefficient is set but no log-probs of the reference were given")
        kl = kl_per_token(kept(logprobs), kept(ref.detach()), options.kl_estimator, options.kl_clamp)
        per_sequence = per_sequence - options.kl_coefficient * kl.sum(-1)
    return -(per_sequence * weights.to(per_sequence.dtype)).sum()


def _clipped(ratio: Tensor, advantage: Tensor, options: LossOptions) -> Tensor:
    gain, clip = ratio * advantage, options.clip
    if clip is None:
        return gain
    high = clip if options.clip_high is None else options.clip_high
    return torch.minimum(gain, ratio.clamp(1 - clip, 1 + high) * advantage)
