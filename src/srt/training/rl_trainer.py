"""The RL trainer: RLOO on groups of rollouts (paper Section 3, Appendix B.1).

What a step does, top to bottom: sample 32 responses per prompt, let each group vote, reward agreement with the vote,
penalise the KL to the base model in the reward, take one AdamW step (srt.training.update). It has no critic and no
asynchrony.

Everything random is a pure function of (seed, step, prompt, sample), so a resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from srt.answers import Vote
from srt.distributed.rank_agreement import refused_together
from srt.distributed.world import World, gather
from srt.evaluation.engine_probe import PlainSamples, check_sampling, check_vllm, plain_samples, vllm_probe
from srt.models.probe_record import recorded
from srt.rewards.group_rewards import (
    GroupRewards,
    Monitor,
    batch_statistics,
    is_cut,
    overlong_punishment,
    training_rewards,
    without_cut,
)
from srt.rewards.own_reward import own_reward
from srt.rollout import TOLERANCE, Rollout, RolloutEngine, Sampling
from srt.training.base_trainer import BaseTrainer
from srt.training.batches import Batch, Batches, label_threshold
from srt.training.objectives import policy_update
from srt.training.reference import load_reference
from srt.training.segment import Segment
from srt.training.sync_check import check_logprobs, check_weights
from srt.training.training_set import TrainingSet


def make_rollout_engine(segment: Segment, model: Any, end_tokens: list[int], world: World) -> RolloutEngine:
    """The engine that `rollout_engine` names; vLLM starts from the base model's files and is updated at each step."""
    train, sharing = segment.spec["train"], segment.rollout_tensor_parallel
    if train["rollout_engine"] == "vllm":
        from srt.rollout.vllm_engine import VllmEngine

        return VllmEngine(
            segment.base,
            end_tokens,
            max_model_len=train["max_prompt_tokens"] + train["max_new_tokens"],
            seed=segment.spec["seed"],
            dtype=train["dtype"],
            vllm_percent=segment.vllm_percent,
            engine_sleep=segment.engine_sleep,
            rollout_tensor_parallel=sharing,
            # of the prompts that the ranks which share the engine have in a round
            max_num_seqs=sharing * math.ceil(train["prompts_per_step"] / world.size) * train["rollouts_per_prompt"],
        )
    from srt.rollout.transformers_engine import TransformersEngine

    return TransformersEngine(model, end_tokens)


class RLTrainer(BaseTrainer):
    """Trains on rollouts of the current policy.

    Args:
        truth: true answers by problem id, for the monitors only; rewards see the labels of `data`.
    """

    def __init__(self, segment: Segment, data: TrainingSet, world: World, truth: dict[str, str]) -> None:
        super().__init__(segment, data, world)
        self.where = f"run {self.spec['run']}"  # for messages
        self.update = policy_update(
            self.policy, load_reference(segment, world), self.train, world, self.check_logprobs, self.timer,
            self.activations,
        )  # fmt: skip
        self.rollout_engine = make_rollout_engine(segment, self.policy.model, self.end_tokens, world)
        if (samples := self.plain_samples) is not None:
            kind, dtype = self.policy.model.config.model_type, self.train["dtype"]
            refused_together(lambda: check_vllm(segment.base, kind, samples, self.rollout_engine, dtype), world)
        self.batches = Batches(self.order, world, self.sample, self.judge, self.spec.get("refill"))
        self.monitor = Monitor(self.grader, truth)
        self.own_reward = own_reward(self.spec["reward"], self.spec.get("reward_labels"))

    def probe(self, segment: Segment, model: Any) -> None:
        """Refuse also a base model that would not be sampled from exactly."""
        super().probe(segment, model)
        self.plain_samples: PlainSamples | None = None
        train, world = self.train, self.world
        if train["rollout_engine"] == "transformers":
            refused_together(lambda: check_sampling(segment.base, model), world, main_only=True)
            return
        from srt.rollout.vllm_models import check_trainable_beside_vllm

        check_trainable_beside_vllm(segment.base, model.config)
        if not gather([recorded(segment.base, vllm_probe(train["dtype"]))], world)[0]:
            tokens = train["max_prompt_tokens"] + train["max_new_tokens"]
            self.plain_samples = plain_samples(model, tokens)

    # -- one step ------------------------------------------------------------------------------------------------

    def step(self, step: int) -> dict[str, float]:
        """Take step `step` (0-based) and return its metrics."""
        train, world = self.train, self.world
        self.where = f"run {self.spec['run']}, step {step + 1}"
        # == rollouts: n responses for each of this rank's prompts ===============================================
        with self.policy.whole():
            with self.timer("sync"):
                self.rollout_engine.update_weights(self.policy.weights())
                check_weights(self.rollout_engine, self.policy.weights(), dtype=train["dtype"], where=self.where)
            positions, groups, refill_metrics = self.batches.draw(step)
            self.rollout_engine.release_memory()
        ids, prompts = [self.data.ids[i] for i in positions], [self.prompts[i] for i in positions]

        # == votes and rewards: the whole group at once; the reward has access to these labels only ===============
        tasks = [self.data.tasks[i] for i in positions]
        with self.timer("reward"):
            texts = self._texts(groups)
            rewards = self._rewards(positions, self._answers(texts, groups))
            observed = self.monitor.observe(ids, texts, rewards, tasks)

        # == policy, reference, advantages, optimizer: srt.training.update =======================================
        mask = train.get("truncated") == "mask"
        punishment = self._punishment(groups)
        updated = self.update.run(make_batch(prompts, groups, rewards, train["rollouts_trained"], mask, punishment))
        majorities = gather([v.majority for v in rewards.votes], world)
        votes = batch_statistics(majorities, gather(rewards.unanimous.tolist(), world))
        if punishment is not None:
            for row, values in zip(observed, punishment, strict=True):
                row["overlong_punishment"] = float(values.mean())
        means = self._means(groups, observed)
        means["reward"] += updated.get("confidence_reward", 0.0) + means.get("overlong_punishment", 0.0)
        return {"step": step + 1, **means, **votes, **updated, **refill_metrics}

    # -- rollouts and votes, for the batches ------------------------------------------------------------------------

    def sample(self, step: int, positions: Sequence[int]) -> list[list[Rollout]]:
        """n responses for each of these positions in the data, at `step` (0-based)."""
        train = self.train
        sampling = Sampling(
            n=train["rollouts_per_prompt"],
            temperature=train["temperature"],
            max_new_tokens=train["max_new_tokens"],
            seed=self.spec["seed"],
        )
        keys = [f"{step}/{self.data.ids[i]}" for i in positions]
        with self.timer("rollout"):
            return self.rollout_engine.generate([self.prompts[i] for i in positions], keys, sampling)

    def judge(self, positions: Sequence[int], groups: Sequence[Sequence[Rollout]]) -> list[tuple[Vote, bool]]:
        """The vote of each group, given its position in the data, and whether the rewards of its rule are all equal.

        These are the rewards of the responses that are trained on, without KL, confidence and punishment; False where
        the run does not sample dynamically.
        """
        with self.timer("reward"):
            answers = self._answers(self._texts(groups), groups)
            if not self.spec["refill"].get("dynamic_sampling"):
                votes = self.grader.vote(answers, tasks=[self.data.tasks[i] for i in positions])
                return [(vote, False) for vote in votes]
            given = self._rewards(positions, answers)
            trained = replace(given, rewards=given.rewards[:, : self.train["rollouts_trained"]])
            return list(zip(given.votes, trained.unanimous.tolist(), strict=True))

    def check_logprobs(self, difference: float) -> None:
        """Stop if the engine did not sample from the policy's weights; called before the weights change."""
        dtype = self.train["dtype"]
        tolerance = self.train["sync_tolerance"] or TOLERANCE[dtype]
        if difference > tolerance or math.isnan(difference):
            distances = self.update.distances_from_plain()
            with self.policy.whole():
                check_logprobs(
                    difference, tolerance, self.rollout_engine, self.policy.weights(), distances, dtype=dtype,
                    where=self.where,
                )  # fmt: skip

    # -- states -----------------------------------------------------------------------------------------------------

    def restore(self, state: Path) -> None:
        """Continue from a saved state, also from its place in the data (all ranks call it)."""
        super().restore(state)
        self.batches.restore(state)

    def progress(self) -> dict[str, Any]:
        """The place in the data, for a run that refills."""
        return self.batches.progress()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _texts(self, groups: Sequence[Sequence[Rollout]]) -> list[list[str]]:
        return [self.tokenizer.batch_decode([r.token_ids for r in group], skip_special_tokens=True) for group in groups]

    def _rewards(self, positions: Sequence[int], answers: list[list[str]]) -> GroupRewards:
        """The rewards of groups of texts, by the run's reward and the labels that it may see."""
        labels, tasks = self.data.labels_of(positions), [self.data.tasks[i] for i in positions]
        if self.own_reward is not None:
            problems = [self.data.problems[i] for i in positions]
            return self.own_reward(self.grader, answers, labels, tasks, problems)
        threshold = label_threshold(self.spec)
        return training_rewards(self.spec["reward"], self.grader, answers, labels, tasks, threshold)

    def _answers(self, texts: list[list[str]], groups: Sequence[Sequence[Rollout]]) -> list[list[str]]:
        """The texts that vote and are rewarded."""
        return without_cut(texts, groups) if self.train.get("truncated") == "no_vote" else texts

    def _punishment(self, groups: Sequence[Sequence[Rollout]]) -> np.ndarray | None:
        """What is added to the rewards [G, n] of long responses; None without `overlong_cache`."""
        cache = self.train.get("overlong_cache")
        return None if cache is None else overlong_punishment(groups, self.train["max_new_tokens"], cache)

    def _means(self, groups: list[list[Rollout]], observed: list[dict[str, float]]) -> dict[str, float]:
        """Means of the known values over the groups of all ranks."""
        rows = [
            row
            | {
                "response_length": float(np.mean([len(r.token_ids) for r in group])),
                "truncated_rate": float(np.mean([is_cut(r) for r in group])),
            }
            for row, group in zip(observed, groups, strict=True)
        ]
        rows = gather(rows, self.world)
        known = {key: [r[key] for r in rows if not math.isnan(r[key])] for key in rows[0]}
        return {key: float(np.mean(values)) if values else math.nan for key, values in known.items()}


def make_batch(
    prompts: list[list[int]], groups: list[list[Rollout]], rewards: GroupRewards, trained: int | None,
    mask: bool = False, punishment: np.ndarray | None = None,
) -> Batch:  # fmt: skip
    """The responses that are trained on, the first `trained` of each group or all; `mask` masks those that were cut.

    `punishment` [G, n] is added to the rewards of all that are not masked.
    """
    pairs = [(g, i) for g, group in enumerate(groups) for i in range(len(group))[:trained]]
    masked = np.array([is_cut(groups[g][i]) for g, i in pairs], dtype=bool) if mask else None
    values = np.array([rewards.rewards[g, i] for g, i in pairs])
    if punishment is not None and pairs:
        added = np.array([punishment[g, i] for g, i in pairs])
        values = values + (added if masked is None else np.where(masked, 0.0, added))
    return Batch(
        prompts=[prompts[g] for g, _ in pairs],
        responses=[groups[g][i].token_ids for g, i in pairs],
        group=[g for g, _ in pairs],
        rewards=values,
        labelled=np.array([rewards.labelled[g] for g, _ in pairs], dtype=bool),
        rollout_logprobs=[groups[g][i].logprobs for g, i in pairs],
        masked=masked,
    )
