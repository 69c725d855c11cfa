"""The training loop: RLOO on groups of rollouts (paper Section 3, Appendix B.1), from one checkpoint to the next.

What it does, top to bottom: draw 32 responses a prompt, let each group vote, reward agreement, penalise the KL to the
base model in the reward, take one AdamW step (srt.training.update). What it does not do: critics, asynchrony.

Everything random is a pure function of (seed, step, prompt, sample), so a resumed run repeats the undisturbed one.
"""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srt.answers import Grader
from srt.common.errors import Interrupted, SrtError
from srt.common.progress import log
from srt.config.preferences import OFFLINE
from srt.cost.flops import count_tokens, update_flops
from srt.cost.hardware import peak_flops
from srt.cost.shapes import Shape
from srt.data.prompts import render_all
from srt.distributed.deepspeed_engine import DeepSpeedEngine
from srt.distributed.offload import offload
from srt.distributed.rank_agreement import find_state, segment_lock
from srt.distributed.saving import Saver
from srt.distributed.state import append_journal, clear_up
from srt.distributed.world import World, barrier, gather, init_world
from srt.models.checkpoint import load_model
from srt.packing.activation_checkpointing import checkpoint_activations
from srt.packing.attention import check_packable
from srt.rollout import STOP, Rollout, RolloutEngine
from srt.training.alarm_action import Reaction
from srt.training.batches import Batches, label_threshold
from srt.training.rewards import GroupRewards, Monitor, batch_statistics, training_rewards
from srt.training.segment import Console, Segment, finish, inputs_of
from srt.training.sync_check import TOLERANCE, check, check_weights
from srt.training.tracking import PhaseTimer, peak_memory, timing_row
from srt.training.training_set import TrainingSet
from srt.training.update import PHASES, Batch, Update


def make_rollout_engine(segment: Segment, model: Any, eos: list[int]) -> RolloutEngine:
    """The engine that `rollout_engine` names; vLLM starts from the base model's files and is updated each step."""
    train = segment.spec["train"]
    if train["rollout_engine"] == "vllm" and segment.spec["reward"] not in OFFLINE:
        from srt.rollout.vllm import VllmEngine

        return VllmEngine(
            segment.base,
            eos,
            max_model_len=train["max_prompt_tokens"] + train["max_new_tokens"],
            seed=segment.spec["seed"],
            dtype=train["dtype"],
            gpu_memory_utilization=segment.vllm_memory,
            sleep=segment.engine_sleep,
            tensor_parallel=segment.tensor_parallel,
        )
    from srt.rollout.hf import HfEngine

    return HfEngine(model, eos)


class Trainer:
    """A run's models, engines and data; `step` is one optimizer step."""

    def __init__(self, segment: Segment, data: TrainingSet, world: World, truth: dict[str, str]) -> None:
        self.spec, self.train, self.world, self.data = segment.spec, segment.spec["train"], world, data
        train = self.train
        if world.size > train["prompts_per_step"]:
            raise SrtError(
                f"runs: {self.spec['run']}: {world.size} processes for prompts_per_step={train['prompts_per_step']}: "
                "each needs a prompt; use fewer GPUs or raise prompts_per_step"
            )
        model, self.tokenizer, eos = load_model(segment.base, train["dtype"], world.device)
        self.reference, *_ = load_model(segment.base, train["dtype"], world.device)
        self.reference.requires_grad_(False)
        checkpoint_activations(model, train["gradient_checkpointing"])
        check_packable(segment.base, model.config)
        self.optimizer = DeepSpeedEngine(
            model, world, learning_rate=train["learning_rate"], betas=tuple(train["betas"]),
            weight_decay=train["weight_decay"], grad_clip=train["grad_clip"], zero_stage=train["zero_stage"],
            dtype=train["dtype"],
        )  # fmt: skip
        self.place = f"run {self.spec['run']}"  # for messages
        self.timer = PhaseTimer(world.device)
        self.updates = Update(self.optimizer, self.reference, train, world, self.check_sync, self.timer,
                              offload(self.reference, world.device) if segment.reference_offload else None)  # fmt: skip
        self.shape = Shape.of(model.config) if world.device.type == "cuda" else None  # for the MFU, known on GPUs only
        self.rollouts = make_rollout_engine(segment, self.optimizer.model, eos)
        self.grader = Grader(preset=train["votes"], extractor=self.spec["extractor"])
        self.monitor = Monitor(self.grader, truth)
        self.batches = Batches(self)
        self.prompts, too_long = render_all(
            self.tokenizer, data.ids, data.problems, self.spec["prompt_suffix"], train["max_prompt_tokens"]
        )
        self.usable = [i for i, prompt in enumerate(self.prompts) if prompt and data.has_label(i)]
        if world.main and len(self.usable) < len(data.ids):
            log(f"{len(data.ids) - len(self.usable)} prompts left out: {len(too_long)} too long, the others unlabelled")
        if len(self.usable) < train["prompts_per_step"]:
            raise SrtError(
                f"runs: {self.spec['run']}: only {len(self.usable)} usable prompts for prompts_per_step="
                f"{train['prompts_per_step']}: lower it or use a larger data set"
            )

    def batch(self, step: int) -> list[int]:
        """Positions in the data of the prompts of `step` (0-based): a fresh permutation an epoch, the rest dropped."""
        size = self.train["prompts_per_step"]
        per_epoch = len(self.usable) // size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self.spec["seed"], epoch]).permutation(len(self.usable))
        return [self.usable[i] for i in order[place * size : (place + 1) * size]]

    # -- one step ------------------------------------------------------------------------------------------------

    def step(self, step: int) -> dict[str, float]:
        """Take step `step` (0-based) and return its metrics."""
        train, world = self.train, self.world
        self.place = f"run {self.spec['run']}, step {step + 1}"
        # == rollouts: n responses for each of this rank's prompts ===============================================
        with self.optimizer.whole():
            with self.timer("sync"):
                self.rollouts.update_weights(self.optimizer.weights())
                check_weights(self.rollouts, self.optimizer.weights(), dtype=train["dtype"], where=self.place)
            chosen, groups, refilled = self.batches.sample(step)
            self.rollouts.release_memory()
        ids, prompts = [self.data.ids[i] for i in chosen], [self.prompts[i] for i in chosen]

        # == votes and rewards: the whole group at once; only these labels are in reach of the reward =============
        tasks = [self.data.tasks[i] for i in chosen]
        with self.timer("reward"):
            texts = [
                self.tokenizer.batch_decode([r.token_ids for r in group], skip_special_tokens=True) for group in groups
            ]
            given = training_rewards(
                self.spec["reward"], self.grader, texts, self.data.labels_of(chosen), tasks, label_threshold(self.spec)
            )
            observed = self.monitor.observe(ids, texts, given, tasks)

        # == policy, reference, advantages, update: srt.training.update
        update = self.updates.run(make_batch(prompts, groups, given, train["rollouts_trained"]))
        majorities = gather([v.majority for v in given.votes], world)
        votes = batch_statistics(majorities, gather(given.unanimous.tolist(), world))
        return {"step": step + 1, **self.summarise(groups, observed), **votes, **update, **refilled}

    def check_sync(self, difference: float) -> None:
        """Stop if the engine sampled from other weights than these; called before they change."""
        dtype = self.train["dtype"]
        tolerance = self.train["sync_tolerance"] or TOLERANCE[dtype]
        if difference > tolerance or math.isnan(difference):
            with self.optimizer.whole():
                check(difference, tolerance, self.rollouts, self.optimizer.weights(), dtype=dtype, where=self.place)

    def timed_step(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """`step`, and what it cost on this machine (srt.training.tracking.timing_row)."""
        began = time.monotonic()
        row = self.step(step)
        phases, work = self.timer.lap(), self.updates.work
        counted = count_tokens(work["prompts"], work["responses"])
        timing = timing_row(
            step + 1, time.monotonic() - began, phases, tokens=work["tokens"],
            response_tokens=work["response_tokens"], processed_tokens=work["packed_tokens"],
            flops=update_flops(self.shape, counted) if self.shape else math.nan,
            peak=self.world.size * peak_flops(self.world.device, self.train["dtype"]),
            memory=max(gather([peak_memory(self.world.device)], self.world)), update=PHASES,
        )  # fmt: skip
        return row, timing

    def summarise(self, groups: list[list[Rollout]], observed: list[dict[str, float]]) -> dict[str, float]:
        """Means over the groups of all ranks, of what is known."""
        rows = [
            row
            | {
                "response_length": float(np.mean([len(r.token_ids) for r in group])),
                "truncated_rate": float(np.mean([r.finish_reason != STOP for r in group])),
            }
            for row, group in zip(observed, groups, strict=True)
        ]
        rows = gather(rows, self.world)
        known = {key: [r[key] for r in rows if not math.isnan(r[key])] for key in rows[0]}
        return {key: float(np.mean(values)) if values else math.nan for key, values in known.items()}


def trainer_of(reward: str) -> type[Trainer]:
    """The trainer of a reward."""
    from srt.training.preference_trainer import OfflineTrainer

    return OfflineTrainer if reward in OFFLINE else Trainer


def make_batch(
    prompts: list[list[int]], groups: list[list[Rollout]], given: GroupRewards, trained: int | None
) -> Batch:
    """The responses that are trained on: the first `trained` of each group, or all."""
    pairs = [(g, i) for g, group in enumerate(groups) for i in range(len(group))[:trained]]
    return Batch(
        prompts=[prompts[g] for g, _ in pairs],
        responses=[groups[g][i].token_ids for g, i in pairs],
        group=[g for g, _ in pairs],
        rewards=np.array([given.rewards[g, i] for g, i in pairs]),
        labelled=np.array([given.labelled[g] for g, _ in pairs], dtype=bool),
        rollout_logprobs=[groups[g][i].logprobs for g, i in pairs],
    )


def run_segment(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> None:
    """Train one segment to its end, resuming what an earlier attempt left; see `Segment`."""
    world = init_world()
    torch.set_num_threads(segment.spec["train"]["threads"])
    began = time.monotonic()
    stopping: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    try:
        # SLURM may start a job again while its first node, out of reach, still trains: wait for what that one writes
        patience = 60 * (segment.minutes or 0) if "SLURM_JOB_ID" in os.environ else 0.0
        with segment_lock(segment.work, world, patience, stopping):
            if world.main:
                clear_up(segment.work, segment.model_out, segment.state_out, segment.metrics_out)
            _run(segment, data, truth, world, stopping, began)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(
    segment: Segment, data: TrainingSet, truth: dict[str, str], world: World, stopping: list[int], began: float
) -> None:
    trainer = trainer_of(segment.spec["reward"])(segment, data, world, truth)
    metrics: list[dict[str, Any]] = []
    step = saved = segment.start
    inputs = inputs_of(segment, data, truth)
    found = find_state(segment.work, segment.spec, world, inputs)
    final: Path | None = None
    if found is not None and segment.start < found[1]["step"] <= segment.stop:
        path, progress = found
        trainer.optimizer.load(path)
        step = saved = progress["step"]
        metrics = progress["metrics"]
        trainer.batches.restore(path)
        final = path if step == segment.stop else None
        if world.main:
            log(f"resuming at step {step} from an interrupted attempt")
    elif segment.resume is not None:
        trainer.optimizer.load(segment.resume)
        trainer.batches.restore(segment.resume)

    if world.main:
        append_journal(segment.work, event="start", step=step, stop=segment.stop)
    reaction = Reaction(segment, trainer, metrics)
    console = Console(segment, metrics, step, world.main)
    engine = trainer.optimizer
    saver = Saver(segment.work, segment.spec, world, inputs, engine.snapshot, engine.parameters)

    def save(wait: bool) -> Path:
        return saver.start(step, metrics, reaction.progress() | trainer.batches.progress(), wait)

    longest = 0.0
    try:
        while step < segment.stop and not reaction.ended:
            row, timing = trainer.timed_step(step)
            saver.settle()
            step += 1
            metrics.append(row)
            if world.main:
                append_journal(segment.work, event="step", step=step)
            console.show(row, timing)
            reaction.update(row)
            longest = max(longest, timing["seconds"])
            late = segment.minutes is not None and time.monotonic() - began + 2 * longest > 60 * segment.minutes
            mine = "SIGTERM" if stopping else f"time budget of {segment.minutes:g} minutes" if late else ""
            why = next(filter(None, gather([mine], world)), "")  # all ranks stop at the same step, for one reason
            if step < segment.stop and (why or step - saved >= segment.save_every):
                save(wait=bool(why))
                saved = step
            if why and step < segment.stop:
                raise Interrupted(f"{why}: state saved at step {step}, the same command goes on from there")
    finally:
        console.close()
    step = segment.stop  # also where the alarm ended the run before
    if final is None:  # an attempt that was killed after its last step has left it
        final = save(wait=True)
    with trainer.optimizer.whole():
        if world.main:
            finish(segment, trainer.optimizer.save_model, trainer.tokenizer, metrics, final)
    barrier()
