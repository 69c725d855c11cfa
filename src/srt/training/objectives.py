"""What an update minimises: the policy gradient on rollouts, or a loss of stored responses (rewards sft, dpo, scpo).

A loss that is a function of the log-probs S_i of whole responses has the gradient sum_i (dL/dS_i) grad S_i. That is the
policy gradient of a batch with advantages -dL/dS_i, which are known once a pair's own passes are done. So preferences
need no separate update, because a pair is a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srt.config.preferences import PAIRS
from srt.distributed.world import World, gather
from srt.objective.advantages import advantages, unanimous
from srt.objective.kl import kl_per_token
from srt.objective.mismatch import importance_weights
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights
from srt.objective.preference_loss import margins, pair_gradient, pair_loss
from srt.packing.activation_checkpointing import ActivationRoom
from srt.training.batches import Batch
from srt.training.reference import Reference
from srt.training.update import PassOptions, Policy, ScoredPack, Statistics, TokenWeights, Update


class PolicyObjective:
    """The RL objective on rollouts (paper Eq. 3): rewards minus a KL, a baseline, and what `policy_loss` adds.

    `entropy_reward` and `certainty_reward` add the policy's own confidence to a response's reward: minus the mean
    entropy of its tokens (RENT, Prabhudesai et al. 2025), and their mean self-certainty (Intuitor, Zhao et al. 2025).

    Args:
        train: the run's resolved hyperparameters (`srt.config.train.Train`).
    """

    def __init__(self, train: dict[str, Any], world: World) -> None:
        self.train, self.world = train, world
        self.by_entropy, self.by_certainty = (train.get(key, 0.0) for key in ("entropy_reward", "certainty_reward"))
        self.certainty = bool(self.by_certainty)
        self.kl_in_reward = train["kl_placement"] == "reward"
        self.options = LossOptions(
            clip=train["clip"],
            clip_high=train.get("clip_high"),
            ratio=train["ratio"],
            entropy_coefficient=train["entropy_coefficient"],
            kl_coefficient=0.0 if self.kl_in_reward else train["kl_coefficient"],
            kl_estimator=train["kl_estimator"],
            kl_clamp=train["kl_clamp"],
        )

    def weigh(self, batch: Batch) -> TokenWeights:
        """Masked responses leave the denominator, and groups without a label if `unparsable_groups` says so."""
        train = self.train
        labelled = torch.from_numpy(batch.labelled)
        kept = labelled if train["unparsable_groups"] == "drop" else torch.ones_like(labelled)
        if batch.masked is not None:
            kept = kept & ~torch.from_numpy(batch.masked)
        lengths = torch.tensor([len(r) for r in batch.responses])
        weights = sequence_weights(lengths, train["aggregation"], kept, train["micro_batch_sequences"])
        trained = torch.ones_like(labelled)
        if train["skip_unanimous"]:
            trained = ~unanimous(torch.from_numpy(batch.rewards).double(), torch.tensor(batch.group))
        return TokenWeights(weights, kept, trained)

    def kl(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """The run's estimator."""
        return kl_per_token(logprobs, reference, self.train["kl_estimator"], self.train["kl_clamp"])

    def advantages(self, batch: Batch, rows: list[int], statistics: Statistics) -> Tensor:
        """Advantages of whole groups `rows`, float64."""
        train = self.train
        labelled = torch.from_numpy(batch.labelled[rows])
        scores = torch.from_numpy(batch.rewards[rows]).double()
        # neither a group without a label (the authors' mask) nor a masked response carries a KL or a confidence
        carries = labelled if batch.masked is None else labelled & ~torch.from_numpy(batch.masked[rows])
        if self.kl_in_reward:
            scores = scores - train["kl_coefficient"] * statistics.kl_sum[rows] * carries
        if self.by_entropy or self.by_certainty:
            scores = scores + self._confidence(statistics)[rows] * carries
        group = torch.tensor([batch.group[i] for i in rows], dtype=torch.long)
        return advantages(scores, group, train["advantage"], labelled)

    def loss(
        self, batch: Batch, scored: ScoredPack, advantage: Tensor, weights: Tensor, statistics: Statistics
    ) -> tuple[Tensor, Tensor]:
        """`policy_loss` of the pack, with truncated importance weights if the run has `importance_cap`."""
        mask, logprobs, cap = scored.pack.mask, scored.logprobs, self.train["importance_cap"]
        importance = None
        if cap is not None:
            if batch.rollout_logprobs is None:
                raise ValueError("importance_cap needs the rollout engine's log-probs")
            importance = importance_weights(scored.old, batch.rollout_logprobs_of(scored.pack), mask, cap)
        loss = policy_loss(
            logprobs, scored.old, advantage.to(logprobs), weights.to(logprobs), mask, self.options,
            entropy=scored.entropy, importance=importance, ref=scored.reference,
        )  # fmt: skip
        return loss, loss.detach()

    def metrics(self, batch: Batch, statistics: Statistics) -> dict[str, float]:
        """`confidence_reward`, the mean of what the confidence adds to a response's reward, if the run has it."""
        if not (self.by_entropy or self.by_certainty):
            return {}
        every = gather(self._confidence(statistics).tolist(), self.world)
        return {"confidence_reward": float(np.mean(every))}

    def _confidence(self, statistics: Statistics) -> Tensor:
        return self.by_certainty * statistics.certainty_mean - self.by_entropy * statistics.entropy_mean


class PreferenceObjective:
    """SFT, DPO and ScPO on stored responses.

    A batch's `rewards` are +1 for responses to learn (`sft`), or +w for the chosen and -w for the rejected response of
    a pair (`scpo`; `dpo` uses the sign only), two adjacent rows of one group.

    Args:
        train: the run's resolved hyperparameters; only `aggregation` and `micro_batch_sequences` have an effect here.
        reward: sft, dpo or scpo.
        preference: `beta` and `nll` for pairs.
    """

    certainty = False

    def __init__(self, train: dict[str, Any], world: World, reward: str, preference: dict[str, Any]) -> None:
        self.world, self.reward, self.preference = world, reward, preference
        self.pairs = reward in PAIRS
        # a mean over pairs is twice the mean over their responses
        self.aggregation = "sequence_sum" if self.pairs else train["aggregation"]
        self.micro_batch_sequences = train["micro_batch_sequences"]

    def weigh(self, batch: Batch) -> TokenWeights:
        """All responses are trained on."""
        everything = torch.ones(len(batch.group), dtype=torch.bool)
        lengths = torch.tensor([len(r) for r in batch.responses])
        weights = sequence_weights(lengths, self.aggregation, everything, self.micro_batch_sequences)
        return TokenWeights(weights, everything, everything)

    def kl(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """k1, whose sum over a response is its log-ratio S - R to the reference."""
        return kl_per_token(logprobs, reference, "k1")

    def advantages(self, batch: Batch, rows: list[int], statistics: Statistics) -> Tensor:
        """-dL/dS of each response over its weight; the value of the loss goes into `statistics`."""
        if not self.pairs:
            statistics.value[rows] = -statistics.logp_sum[rows]
            return torch.ones(len(rows), dtype=torch.float64)
        chosen, rejected = _pairs(batch, rows)
        weight = torch.from_numpy(batch.rewards)[chosen].double()
        if self.reward == "dpo":
            weight = torch.ones_like(weight)
        length = torch.tensor([len(batch.responses[i]) for i in chosen.tolist()], dtype=torch.float64)
        beta, nll = self.preference["beta"], self.preference["nll"]
        margin = self._margins(chosen, rejected, statistics)
        statistics.value[chosen] = 2 * pair_loss(margin, statistics.logp_sum[chosen], length, weight, nll)
        slope_chosen, slope_rejected = pair_gradient(margin, length, weight, beta, nll)
        advantage = torch.zeros(len(batch.group), dtype=torch.float64)
        advantage[chosen], advantage[rejected] = -2 * slope_chosen, -2 * slope_rejected
        return advantage[rows]

    def loss(
        self, batch: Batch, scored: ScoredPack, advantage: Tensor, weights: Tensor, statistics: Statistics
    ) -> tuple[Tensor, float]:
        """A loss with the right gradient; the logged value is that of the method's own loss."""
        logprobs = scored.logprobs
        loss = policy_loss(logprobs, scored.old, advantage.to(logprobs), weights.to(logprobs), scored.pack.mask)
        values = statistics.value[scored.pack.rows]
        return loss, math.fsum(w * v for w, v in zip(weights.tolist(), values.tolist(), strict=True))

    def metrics(self, batch: Batch, statistics: Statistics) -> dict[str, float]:
        """`kl` is nan, as the responses are not the policy's; for pairs `pair_accuracy` and `pair_margin` are added.

        They are the share of pairs with a margin above 0, and the mean margin.
        """
        if not self.pairs:
            return {"kl": math.nan}
        every = self._margins(*_pairs(batch, list(range(len(batch.group)))), statistics)
        found = np.array(gather(every.tolist(), self.world))
        return {"kl": math.nan, "pair_accuracy": float((found > 0).mean()), "pair_margin": float(found.mean())}

    def _margins(self, chosen: Tensor, rejected: Tensor, statistics: Statistics) -> Tensor:
        return margins(statistics.kl_sum[chosen], statistics.kl_sum[rejected], self.preference["beta"])


def _pairs(batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
    """The chosen and the rejected row of each pair, in the order of the groups; `rows` may be in any order."""
    order = sorted(rows, key=lambda i: (batch.group[i], batch.rewards[i] < 0))
    return torch.tensor(order[::2], dtype=torch.long), torch.tensor(order[1::2], dtype=torch.long)


def policy_update(
    policy: Policy, reference: Reference, train: dict[str, Any], world: World,
    check_mismatch: Callable[[float], None] | None = None, timer: Any = None, activations: ActivationRoom | None = None,
) -> Update:  # fmt: skip
    """The update on rollouts, from a run's resolved hyperparameters."""
    options = PassOptions(train["temperature"], train["iterations"], train["micro_batch_tokens"], train["zero_stage"])
    objective = PolicyObjective(train, world)
    return Update(policy, objective, options, world, reference, check_mismatch, timer, activations)


def preference_update(
    policy: Policy, reference: Reference | None, train: dict[str, Any], world: World, reward: str,
    preference: dict[str, Any], timer: Any = None, activations: ActivationRoom | None = None,
) -> Update:  # fmt: skip
    """The update on stored responses: log-probs at temperature 1, one step per batch. SFT has no reference."""
    options = PassOptions(1.0, 1, train["micro_batch_tokens"], train["zero_stage"])
    objective = PreferenceObjective(train, world, reward, preference)
    return Update(policy, objective, options, world, reference, timer=timer, activations=activations)
