"""Training on a teacher's stored responses, without rollouts: rewards sft, dpo and scpo (paper v2, Appendix F)."""

from __future__ import annotations

import math

import numpy as np

from srt.common.progress import log
from srt.config.preferences import PAIRS
from srt.distributed.world import World, gather
from srt.labels.preferences import Preferences
from srt.training.base_trainer import BaseTrainer
from srt.training.batches import Batch, rank_share
from srt.training.objectives import preference_update
from srt.training.reference import load_reference
from srt.training.segment import Segment
from srt.training.training_set import METRICS, PAIRED, TrainingSet


class PreferenceTrainer(BaseTrainer):
    """The trainer of a run without rollouts; its data have the responses (`TrainingSet.stored`). SFT has no reference.

    Args:
        truth: true answers by problem id, for the log only.
    """

    def __init__(self, segment: Segment, data: TrainingSet, world: World, truth: dict[str, str]) -> None:
        super().__init__(segment, data, world)
        assert data.stored is not None
        self.stored: Preferences = data.stored
        self.truth = truth
        self.pairs = self.spec["reward"] in PAIRS
        self.update = preference_update(
            self.policy, load_reference(segment, world) if self.pairs else None, self.train, world,
            self.spec["reward"], self.spec["preference"], self.timer, self.activations,
        )  # fmt: skip
        if world.main:
            usable = len(self.order.usable)
            log(f"{usable} prompts have stored responses: an epoch is {usable // self.order.per_step} steps")

    def step(self, step: int) -> dict[str, float]:
        """Take step `step` (0-based) and return its metrics; those of rollouts are nan."""
        positions = rank_share(self.order.batch(step), self.world)
        problems = [self.data.ids[i] for i in positions]
        batch = stored_batch(self.stored, problems, [self.prompts[i] for i in positions])
        updated = self.update.run(batch)
        # only the log sees true answers
        truth = [self.truth.get(i) for i in problems]
        answers = [self.stored.answer(i) for i in problems]
        verdicts = self.grader.verify_answers(answers, truth, tasks=[self.data.tasks[i] for i in positions])
        right = gather([float(v.correct) for v, t in zip(verdicts, truth, strict=True) if t is not None], self.world)
        lengths = gather([len(r) for r in batch.responses], self.world)
        known = {
            "label_accuracy": float(np.mean(right)) if right else math.nan,
            "response_length": float(np.mean(lengths)),
        }
        columns = (*METRICS, *PAIRED) if self.pairs else METRICS
        return dict.fromkeys(columns, math.nan) | known | updated | {"step": step + 1}


def stored_batch(stored: Preferences, problems: list[str], prompts: list[list[int]]) -> Batch:
    """The stored responses of these problems, one group per problem."""
    rows = [(g, row) for g, problem in enumerate(problems) for row in stored.rows[problem]]
    return Batch(
        prompts=[prompts[g] for g, _ in rows],
        responses=[stored.tokens(row) for _, row in rows],
        group=[g for g, _ in rows],
        rewards=stored.signed_weights([row for _, row in rows]),
        labelled=np.ones(len(rows), dtype=bool),
    )
