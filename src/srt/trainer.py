"""The training loop: RLOO on groups of rollouts (paper Eq. 2), from one checkpoint to the next.

What it does, top to bottom: draw 32 responses a prompt, let each group vote, reward agreement, penalise the KL to the
base model in the reward, take one AdamW step. What it does not do: several updates on one batch, critics, asynchrony.

There is no separate pass for the old policy. Strictly on-policy its log-probs are those of the gradient pass, so that
pass runs first, keeps its graph, and is differentiated once the advantages are known (docs/trainer.md).

Everything random is a pure function of (seed, step, prompt, sample), so a resumed run repeats the undisturbed one.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from srt import engine as distributed
from srt.answers import Grader
from srt.checkpoints import fingerprint, load_model, write_provenance
from srt.engine import TrainEngine, World
from srt.errors import Interrupted, SrtError
from srt.io import atomic_dir, canonical_json, sha256_bytes, sha256_file, spec_hash, write_parquet
from srt.logprobs import micro_batches, response_logprobs
from srt.objective import advantages, kl_per_token, policy_loss, sequence_weights
from srt.problems import TrainingSet, training_frame
from srt.progress import interval, is_terminal, log, progress_file
from srt.prompts import render_all
from srt.rewards import GroupRewards, Monitor, training_rewards
from srt.rollout import STOP, Engine, Rollout, Sampling
from srt.state import exclusive, find_state, note, states, write_state


@dataclass(frozen=True)
class Segment:
    """One job: train `spec` from step `start` to `stop`.

    `base` is the base model: first weights of the run and reference of the KL. `resume` is the state of step `start`
    (None at step 0). `work` holds this segment's own progress; `model_out`, `state_out`, `metrics_out` appear at the
    end. `minutes` is a time budget: when the next step might not fit, the state is saved and the exit code is 75.
    `vllm_memory` is vLLM's share of GPU memory beside the trainer.
    """

    spec: dict[str, Any]
    base: Path
    resume: Path | None
    start: int
    stop: int
    work: Path
    model_out: Path
    state_out: Path
    metrics_out: Path
    save_every: int = 10
    minutes: float | None = None
    vllm_memory: float = 0.3


def rank_share(items: list[Any], world: World) -> list[Any]:
    """This rank's prompts of a step: whole groups, so votes and baselines never cross ranks.

    The shares are runs of the batch: one rank after the other they are the batch in its order, on which the
    micro-batch means of `token_mean_micro` depend. They differ by at most one prompt.
    """
    first, last = (len(items) * (world.rank + k) // world.size for k in (0, 1))
    return items[first:last]


def gather(values: list[Any], world: World) -> list[Any]:
    """The lists of all ranks, one after the other, on every rank."""
    if world.size == 1:
        return values
    parts: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(parts, values)
    return [v for part in parts for v in part]


def make_rollout_engine(segment: Segment, model: Any, eos: list[int]) -> Engine:
    """The engine that `rollout_engine` names; vLLM starts from the base model's files and is updated each step."""
    train = segment.spec["train"]
    if train["rollout_engine"] == "vllm":
        from srt.rollout.vllm import VllmEngine

        return VllmEngine(
            segment.base,
            eos,
            max_model_len=train["max_prompt_tokens"] + train["max_new_tokens"],
            seed=segment.spec["seed"],
            dtype=train["dtype"],
            gpu_memory_utilization=segment.vllm_memory,
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
        if train["gradient_checkpointing"]:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers checkpoints in training mode only; dropout is 0 (checked below)
        if getattr(model.config, "attention_dropout", 0.0):
            raise SrtError(
                f"{segment.base}/config.json: attention_dropout must be 0: rollouts and training would differ"
            )
        self.optimizer = TrainEngine(
            model, world, learning_rate=train["learning_rate"], betas=tuple(train["betas"]),
            weight_decay=train["weight_decay"], grad_clip=train["grad_clip"], zero_stage=train["zero_stage"],
            dtype=train["dtype"],
        )  # fmt: skip
        self.rollouts = make_rollout_engine(segment, self.optimizer.model, eos)
        self.grader = Grader(preset=train["votes"], extractor=self.spec["extractor"])
        self.monitor = Monitor(self.grader, truth)
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
        # == rollouts: n responses for each of this rank's prompts ===============================================
        chosen = rank_share(self.batch(step), world)
        sampling = Sampling(
            n=train["rollouts_per_prompt"],
            temperature=train["temperature"],
            max_new_tokens=train["max_new_tokens"],
            seed=self.spec["seed"],
        )
        self.rollouts.update_weights(self.optimizer.weights())
        ids = [self.data.ids[i] for i in chosen]
        groups = self.rollouts.generate([self.prompts[i] for i in chosen], [f"{step}/{i}" for i in ids], sampling)
        texts = [
            self.tokenizer.batch_decode([r.token_ids for r in group], skip_special_tokens=True) for group in groups
        ]

        # == votes and rewards: the whole group at once; only these labels are in reach of the reward =============
        tasks = [self.data.tasks[i] for i in chosen]
        given = training_rewards(self.spec["reward"], self.grader, texts, self.data.labels_of(chosen), tasks)
        observed = self.monitor.observe(ids, texts, given, tasks)

        # == policy, reference, advantages, update ================================================================
        flat = [r for group in groups for r in group]
        prompts = [self.prompts[i] for i, group in zip(chosen, groups, strict=True) for _ in group]
        update = self.update(prompts, flat, given)
        return self.summarise(groups, observed, update, step)

    def update(self, prompts: list[list[int]], flat: list[Rollout], given: GroupRewards) -> dict[str, Any]:
        """One RLOO update on N = G n sequences; returns per-sequence KL and entropy means and the gradient norm."""
        train, world, model = self.train, self.world, self.optimizer.model
        n = given.rewards.shape[1]
        lengths = torch.tensor([len(r.token_ids) for r in flat])
        labelled = torch.from_numpy(given.labelled).repeat_interleave(n)
        kept = labelled if train["unparsable_groups"] == "drop" else torch.ones_like(labelled)
        batches = micro_batches([len(p) + len(r.token_ids) for p, r in zip(prompts, flat, strict=True)],
                                train["micro_batch_tokens"])  # fmt: skip
        real = len(batches)
        if train["zero_stage"] == 2:  # it reduces in every backward pass: as many on every rank, the rest of weight 0
            batches += [batches[-1][-1:]] * (max(gather([real], world)) - real)

        # -- gradient pass first (its graph is kept), then the reference ------------------------------------------
        passes = []
        kl_sum, kl_mean, entropy_mean = (torch.zeros(len(flat), dtype=torch.float64) for _ in range(3))
        for rows in batches:
            inputs = [prompts[i] for i in rows], [flat[i].token_ids for i in rows], train["temperature"]
            logp, entropy, mask = response_logprobs(model, *inputs, recompute_head=train["gradient_checkpointing"])
            with torch.no_grad():
                ref, _, _ = response_logprobs(self.reference, *inputs)
                kl = kl_per_token(logp.detach(), ref, train["kl_estimator"], train["kl_clamp"]).masked_fill(~mask, 0.0)
                kl_sum[rows] = kl.sum(-1).double().cpu()
                kl_mean[rows] = kl_sum[rows] / lengths[rows]
                entropy_mean[rows] = entropy.detach().sum(-1).double().cpu() / lengths[rows]
            passes.append((rows, logp, entropy, mask))

        # -- advantages: reward minus KL, leave-one-out within the group ------------------------------------------
        penalty = train["kl_coefficient"] * kl_sum * labelled  # an unlabelled group carries no KL (authors' mask)
        scores = torch.from_numpy(given.rewards).flatten() - penalty
        group = torch.arange(len(flat)) // n
        advantage = torch.where(labelled, advantages(scores, group, train["advantage"]), torch.zeros_like(scores))

        # -- weights: one denominator for the global batch, whatever the split ------------------------------------
        every = gather(list(zip(lengths.tolist(), kept.tolist(), strict=True)), world)
        all_weights = sequence_weights(
            torch.tensor([length for length, _ in every]),
            train["aggregation"],
            torch.tensor([keep for _, keep in every]),
            train["micro_batch_sequences"],
        )
        offset = sum(count for count, rank in gather([(len(flat), world.rank)], world) if rank < world.rank)
        weights = all_weights[offset : offset + len(flat)]

        # -- backward, one micro-batch after the other, then the step ---------------------------------------------
        loss_total = 0.0
        for number, (rows, logp, entropy, mask) in enumerate(passes, start=1):
            loss = policy_loss(
                logp, logp.detach(),
                advantage[rows].to(logp), weights[rows].to(logp) * (number <= real), mask,
                entropy, train["entropy_coefficient"],
            )  # fmt: skip
            loss_total += float(loss.detach())
            self.optimizer.backward(loss, last=number == len(passes))
            passes[number - 1] = None  # type: ignore[call-overload]  # free this graph
        if not math.isfinite(loss_total):
            raise RuntimeError(f"{self.spec['run']}: the loss is {loss_total}: nothing was updated")
        norm = self.optimizer.step()
        return {"kl": kl_mean, "entropy": entropy_mean, "loss": loss_total, "grad_norm": norm, "kept": kept}

    def summarise(
        self, groups: list[list[Rollout]], observed: list[dict[str, float]], update: dict[str, Any], step: int
    ) -> dict[str, float]:
        """One row for the log, over the groups of all ranks."""
        flat = [r for group in groups for r in group]
        mine = {
            "response_length": float(np.mean([len(r.token_ids) for r in flat])),
            "truncated_rate": float(np.mean([r.finish_reason != STOP for r in flat])),
            "kl": float(update["kl"].mean()),
            "entropy": float(update["entropy"].mean()),
            "kept_rate": float(update["kept"].double().mean()),
            "groups": len(groups),
        }
        ranks = gather([mine], self.world)
        total = sum(r["groups"] for r in ranks)
        row: dict[str, float] = {"step": step + 1}
        rows = gather(observed, self.world)
        for key in rows[0]:
            known = [r[key] for r in rows if not math.isnan(r[key])]
            row[key] = float(np.mean(known)) if known else float("nan")
        for key in mine:
            if key != "groups":
                row[key] = float(sum(r[key] * r["groups"] for r in ranks) / total)
        row["loss"] = float(sum(gather([update["loss"]], self.world)))
        row["grad_norm"] = update["grad_norm"]
        return row


def inputs_of(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> str:
    """Fingerprint by content of what a segment is made from: base model, data, labels, the state before it."""
    resume = sha256_file(segment.resume / "manifest.json") if segment.resume else None
    rows = [data.ids, data.problems, data.tasks, data.labels, truth]
    return sha256_bytes(canonical_json([fingerprint(segment.base), resume, rows]).encode())


def run_segment(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> None:
    """Train one segment to its end, resuming what an earlier attempt left; see `Segment`."""
    world = distributed.init_world()
    torch.set_num_threads(segment.spec["train"]["threads"])
    began = time.monotonic()
    stopping: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    try:
        # SLURM may start a job again while its first node, out of reach, still trains: wait for what that one writes
        patience = 60 * (segment.minutes or 0) if "SLURM_JOB_ID" in os.environ else 0.0
        with exclusive(segment.work, patience) if world.main else contextlib.nullcontext():
            _run(segment, data, truth, world, stopping, began)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(
    segment: Segment, data: TrainingSet, truth: dict[str, str], world: World, stopping: list[int], began: float
) -> None:
    trainer = Trainer(segment, data, world, truth)
    metrics: list[dict[str, Any]] = []
    step = saved = segment.start
    inputs = inputs_of(segment, data, truth)
    found = find_state(segment.work, segment.spec, world.size, world.main, inputs)
    if found is not None and segment.start < found[1]["step"] <= segment.stop:
        path, progress = found
        trainer.optimizer.load(path)
        step = saved = progress["step"]
        metrics = progress["metrics"]
        if world.main:
            log(f"resuming at step {step} from an interrupted attempt")
    elif segment.resume is not None:
        trainer.optimizer.load(segment.resume)

    if world.main:
        note(segment.work, event="start", step=step, stop=segment.stop)

    def save() -> Path:
        return write_state(
            segment.work, step, segment.spec, world.size, metrics, trainer.optimizer.save, world.main,
            distributed.barrier, inputs,
        )  # fmt: skip

    bar = tqdm(
        total=segment.stop, initial=step, desc=segment.spec["run"], unit="step", file=progress_file(),
        mininterval=interval(), disable=not world.main or not is_terminal(),
    )  # fmt: skip
    longest = 0.0
    try:
        while step < segment.stop:
            started = time.monotonic()
            row = trainer.step(step)
            step += 1
            metrics.append(row)
            if world.main:
                note(segment.work, event="step", step=step)
            longest = max(longest, time.monotonic() - started)
            bar.update()
            bar.set_postfix(reward=f"{row['reward']:.3f}", kl=f"{row['kl']:.4f}")
            if world.main and not is_terminal():
                log(
                    f"{segment.spec['run']} step {step}/{segment.stop} reward {row['reward']:.3f} "
                    f"kl {row['kl']:.4f} length {row['response_length']:.0f} {longest:.1f} s/step"
                )
            late = segment.minutes is not None and time.monotonic() - began + 2 * longest > 60 * segment.minutes
            halt = any(gather([bool(stopping) or late], world))  # all ranks stop at the same step
            if step < segment.stop and (halt or step - saved >= segment.save_every):
                save()
                saved = step
            if halt and step < segment.stop:
                why = "SIGTERM" if stopping else f"time budget of {segment.minutes:g} minutes"
                raise Interrupted(f"{why}: state saved at step {step}, the same command goes on from there")
    finally:
        bar.close()
    final = save()
    if world.main:
        _finish(segment, trainer, metrics, final)
    distributed.barrier()


def _finish(segment: Segment, trainer: Trainer, metrics: list[dict[str, Any]], final: Path) -> None:
    """Write the outputs; a kill in between repeats this from the saved state.

    That state stays, as links to the same files: Snakemake deletes the outputs of a job that is cancelled, or loses its
    node, after this point. The next segment of the run drops it.
    """
    with atomic_dir(segment.model_out) as folder:
        trainer.optimizer.save_model(folder)
        trainer.tokenizer.save_pretrained(folder)
        write_provenance(folder, run=segment.spec["run"], step=segment.stop, spec=spec_hash(segment.spec))
    with atomic_dir(segment.state_out) as folder:
        shutil.copytree(final, folder, dirs_exist_ok=True, copy_function=link_or_copy)
    write_parquet(segment.metrics_out, training_frame(metrics), {"run": segment.spec["run"], "spec": segment.spec})
    before = segment.work.with_name(f"step-{segment.start}")
    for path in states(before) if segment.resume and before != segment.work else ():
        shutil.rmtree(path)


def link_or_copy(source: str, target: str) -> str:
    """A second name for a file, or a copy on file systems that have no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
