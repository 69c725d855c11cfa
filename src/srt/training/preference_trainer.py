"""Training without rollouts, on a teacher's stored responses: rewards `sft`, `dpo` and `scpo`.

Everything else is the trainer's and the update's: prompts, packs, DeepSpeed, states, logs. A loss that is a function of
the log-probs S_i of whole responses has the gradient sum_i (dL/dS_i) grad S_i, and that is the policy gradient of a
batch whose advantages are -dL/dS_i, known once a pair's own passes are done. So a pair is a group of
`srt.training.update`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srt.common.progress import log
from srt.config.preferences import PAIRS
from srt.distributed.offload import OffloadedModel
from srt.distributed.world import World, gather
from srt.labels.preferences import Preferences
from srt.objective.preference_loss import margins, pair_gradient, pair_loss
from srt.packing.pack import Pack
from srt.training.batches import rank_share
from srt.training.segment import Segment
from srt.training.trainer import Trainer
from srt.training.training_set import METRICS, PAIRED, TrainingSet
from srt.training.update import Batch, Optimizer, Update, _Passes

# What of `train` has no meaning here. k1 summed over a response is its log-ratio to the reference.
FIXED = {
    "advantage": "rloo", "kl_placement": "reward", "kl_estimator": "k1", "kl_clamp": None, "entropy_coefficient": 0.0,
    "iterations": 1, "clip": None, "ratio": "token", "importance_cap": None, "skip_unanimous": False,
    "unparsable_groups": "keep", "temperature": 1.0,
}  # fmt: skip


class PreferenceUpdate(Update):
    """One update on stored responses.

    A batch's `rewards` are +1 for responses to learn (`sft`), or +w for the chosen and -w for the rejected response of
    a pair (`scpo`; `dpo` reads the sign only), two adjacent rows. `run` returns as `Update.run`, with the loss of the
    method; the KL is nan, as the responses are not the policy's. Pairs add `pair_accuracy`, the share with a margin
    above 0, and `pair_margin`, the mean margin.

    Args:
        preference: `beta` and `nll` for pairs.
    """

    def __init__(
        self, optimizer: Optimizer, reference: Any, train: dict[str, Any], world: World, reward: str,
        preference: dict[str, Any], timer: Any = None, parked: OffloadedModel | None = None,
    ) -> None:  # fmt: skip
        # a mean over pairs is twice the mean over their responses
        fixed = FIXED | ({"aggregation": "sequence_sum"} if reward in PAIRS else {})
        # SFT has no reference: a parked one stays where it is
        super().__init__(optimizer, reference, train | fixed, world, None, timer, parked if reward in PAIRS else None)
        self.reward, self.preference = reward, preference
        self.value: dict[int, float] = {}  # by row: what the loss has of it, over its weight
        self.margins: list[float] = []

    def run(self, batch: Batch) -> dict[str, Any]:
        """Update on the batches of all processes."""
        self.value, self.margins = {}, []
        result = super().run(batch) | {"kl": math.nan}
        if self.reward not in PAIRS:
            return result
        every = np.array(gather(self.margins, self.world))
        return result | {"pair_accuracy": float((every > 0).mean()), "pair_margin": float(every.mean())}

    def _reference(self, p: Pack, logp: Tensor) -> Tensor:
        """SFT has no reference."""
        return super()._reference(p, logp) if self.reward in PAIRS else logp.detach()

    def _advantages(self, batch: Batch, rows: list[int], found: _Passes) -> Tensor:
        if self.reward not in PAIRS:
            self.value |= {i: -float(found.logp_sum[i]) for i in rows}
            return torch.ones(len(rows), dtype=torch.float64)
        # rows of a group that fills several packs come by length: pairs are put together by their group
        order = sorted(range(len(rows)), key=lambda k: (batch.group[rows[k]], batch.rewards[rows[k]] < 0))
        best, worst = (torch.tensor([rows[k] for k in order[side::2]]) for side in (0, 1))
        weight = torch.from_numpy(batch.rewards)[best].double()
        if self.reward == "dpo":
            weight = torch.ones_like(weight)
        length = torch.tensor([len(batch.responses[i]) for i in best.tolist()], dtype=torch.float64)
        beta, nll = self.preference["beta"], self.preference["nll"]
        margin = margins(found.kl_sum[best], found.kl_sum[worst], beta)
        loss = pair_loss(margin, found.logp_sum[best], length, weight, nll)
        self.margins += margin.tolist()
        self.value |= dict(zip(best.tolist(), (2 * loss).tolist(), strict=True)) | dict.fromkeys(worst.tolist(), 0.0)
        advantage = torch.zeros(len(rows), dtype=torch.float64)
        for side, slope in enumerate(pair_gradient(margin, length, weight, beta, nll)):
            advantage[order[side::2]] = -2 * slope
        return advantage

    def _backward(
        self, batch: Batch, p: Pack, logp: Tensor, entropy: Tensor, old: Tensor, ref: Tensor, advantage: Tensor,
        weights: Tensor, found: _Passes, last: bool, log: bool = True,
    ) -> None:  # fmt: skip
        super()._backward(batch, p, logp, entropy, old, ref, advantage, weights, found, last, log=False)
        found.loss += math.fsum(float(weights[i]) * self.value[i] for i in p.rows)


class OfflineTrainer(Trainer):
    """The trainer of a run that draws no rollouts; its data hold the responses (`TrainingSet.stored`)."""

    def __init__(self, segment: Segment, data: TrainingSet, world: World, truth: dict[str, str]) -> None:
        super().__init__(segment, data, world, truth)
        assert data.stored is not None
        self.stored: Preferences = data.stored
        self.updates = PreferenceUpdate(
            self.optimizer, self.reference, self.train, world, self.spec["reward"], self.spec["preference"], self.timer,
            self.updates.parked,
        )  # fmt: skip
        if world.main:
            steps = len(self.usable) // self.train["prompts_per_step"]
            log(f"{len(self.usable)} prompts have stored responses: an epoch is {steps} steps")

    def step(self, step: int) -> dict[str, float]:
        """Take step `step` (0-based) and return its metrics: nan where they speak of rollouts that there are not."""
        self.place = f"run {self.spec['run']}, step {step + 1}"
        chosen = rank_share(self.batch(step), self.world)
        problems = [self.data.ids[i] for i in chosen]
        batch = stored_batch(self.stored, problems, [self.prompts[i] for i in chosen])
        update = self.updates.run(batch)
        # true answers are seen by the log only
        truth = [self.monitor.truth.get(i) for i in problems]
        answers = [self.stored.answer(i) for i in problems]
        verdicts = self.grader.verify_answers(answers, truth, tasks=[self.data.tasks[i] for i in chosen])
        right = gather([float(v.correct) for v, t in zip(verdicts, truth, strict=True) if t is not None], self.world)
        lengths = gather([len(r) for r in batch.responses], self.world)
        known = {
            "label_accuracy": float(np.mean(right)) if right else math.nan,
            "response_length": float(np.mean(lengths)),
        }
        own = PAIRED if self.spec["reward"] in PAIRS else ()
        return dict.fromkeys((*METRICS, *own), math.nan) | known | update | {"step": step + 1}


def stored_batch(stored: Preferences, problems: list[str], prompts: list[list[int]]) -> Batch:
    """The stored responses of these problems, a group a problem."""
    rows = [(g, row) for g, problem in enumerate(problems) for row in stored.rows[problem]]
    return Batch(
        prompts=[prompts[g] for g, _ in rows],
        responses=[stored.tokens(row) for _, row in rows],
        group=[g for g, _ in rows],
        rewards=stored.signed_weights([row for _, row in rows]),
        labelled=np.ones(len(rows), dtype=bool),
    )
