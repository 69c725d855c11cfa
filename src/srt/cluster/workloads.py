"""The work of a configuration's jobs, in the numbers that the formulas of `srt.cost` take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srt.config.preferences import OFFLINE
from srt.config.root import Config
from srt.cost.lengths import Lengths
from srt.cost.parameters import GENEROUS
from srt.cost.shapes import shape_of_model
from srt.cost.work import SamplingWork, TrainingWork

UNKNOWN_ROWS = 20_000  # problems of a data set whose entry does not say how many: an upper estimate


def expected_rows(entry: Any, unknown: int = UNKNOWN_ROWS) -> int:
    """Problems of a data set by its entry alone; `unknown` (before a held-out part is taken) where it does not say."""
    known = getattr(entry, "take", None) or getattr(entry, "size", None)
    if known:
        return int(known)
    held_out = entry.holdout_fraction or 0.0
    share = {"train": 1 - held_out, "heldout": held_out, None: 1.0}[entry.part]
    return round((getattr(entry, "expect_rows", None) or unknown) * share)


def training_work(config: Config, instance: str, steps: int) -> TrainingWork:
    """A segment of `steps` steps of a run, with generous lengths of prompts and responses."""
    run = config.entry(instance).run
    train = run.train.resolved()
    responses, trained = train.rollouts_per_prompt, train.rollouts_trained
    rounds = run.refill.rounds if run.refill else 1
    if run.reward in OFFLINE:
        rounds = 0
        responses = trained = run.preferences.per_prompt(run.reward, config.sampling_settings(run.model).n)
    vllm = train.rollout_engine == "vllm" and rounds > 0
    return TrainingWork(
        shape=shape_of_model(config.models[run.model]),
        lengths=Lengths.of_limits(train.max_prompt_tokens, train.max_new_tokens, GENEROUS),
        prompts=train.prompts_per_step,
        responses=responses,
        trained=trained,
        dtype=train.dtype,
        vllm=vllm,
        threads=train.threads,
        steps=steps,
        rollout_rounds=rounds,
        reference=run.reward != "sft",
        reference_offload=run.reference_offload,
        old_policy_pass=(rounds > 0 and train.iterations > 1) or train.zero_stage == 3,
        checkpointing=train.gradient_checkpointing,
        pack_tokens=train.micro_batch_tokens,
        zero_stage=train.zero_stage,
        engine_sleep=run.engine_sleep if vllm else False,
        rollout_tensor_parallel=run.rollout_tensor_parallel if vllm else 1,
        save_every=config.save_every,
    )


def sampling_work(config: Config, model_id: str, suite: str, rows: Mapping[str, int] | None = None) -> SamplingWork:
    """Sampling a checkpoint of a model on a suite, with generous lengths of prompts and responses.

    Args:
        rows: problems by data set, where they are known better than from its entry.
    """
    sampling = config.sampling_settings(model_id, suite)
    members = config.members(suite)
    problems = sum(rows[name] if rows else expected_rows(config.datasets[name]) for name in members)
    return SamplingWork(
        shape=shape_of_model(config.models[model_id]),
        lengths=Lengths.of_limits(sampling.max_prompt_tokens, sampling.max_new_tokens, GENEROUS),
        prompts=problems,
        responses=sampling.n,
        dtype=sampling.dtype,
        vllm=sampling.engine == "vllm",
        threads=sampling.threads,
    )
