"""Three steps of a run by the real trainer with each rollout engine: weights compared, costs measured.

A step itself compares the weights after each sync and the log-probs of engine and trainer
(`srt.training.sync_check`); what it refuses fails the part.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from srt.cluster.resources import USABLE, cache_bytes, room_bytes, vllm_percent
from srt.cost.flops import Tokens, count_tokens, update_flops
from srt.cost.lengths import Lengths
from srt.cost.memory import BYTES, state_bytes, training_bytes
from srt.cost.seconds import recomputed_share
from srt.cost.work import TrainingWork
from srt.distributed.world import World, barrier, gather, init_world
from srt.gpu_check.parts import PROMPT_TOKENS, STEPS, Machine, NotPossible, need_package, require
from srt.gpu_check.plain_policy import PlainTrainer
from srt.gpu_check.random_model import Size
from srt.training.rl_trainer import RLTrainer
from srt.training.segment import Segment
from srt.training.sync_check import differing_tensors
from srt.training.training_set import read_training_set
from srt.training.update import PHASES


@dataclass(frozen=True)
class Case:
    """How the steps are taken; `deepspeed` False: with `srt.gpu_check.plain_policy`. `saves`: a save is timed too.

    `keeps`: layers keep activations in the memory that is left.
    """

    engine: str = "transformers"
    zero_stage: int = 1
    deepspeed: bool = True
    sleep: bool = False
    offload: bool = False
    keeps: bool = False
    saves: bool = False
    gpu_only: bool = False


CASES = {
    "steps without DeepSpeed": Case(deepspeed=False),
    "steps, ZeRO 1": Case(saves=True),
    "steps, ZeRO 2": Case(zero_stage=2),
    "steps, ZeRO 3": Case(zero_stage=3),
    "steps, reference in host memory": Case(offload=True, gpu_only=True),
    "steps, layers that keep activations": Case(keeps=True, gpu_only=True),
    "steps, vLLM": Case(engine="vllm"),
    "steps, vLLM that sleeps": Case(engine="vllm", sleep=True, gpu_only=True),
}
RANKS = 2  # of `in_two`
STAGES = (1, 2, 3)


def take(machine: Machine, case: Case, world: World | None = None) -> dict[str, Any]:
    """Take the steps of a case; the figures of its last step, and of its start, sync and save."""
    if case.gpu_only and not machine.gpu:
        raise NotPossible("there is no GPU")
    if case.deepspeed:
        need_package("deepspeed")
    if case.engine == "vllm":
        need_package("vllm")
    ranks = world.size if world else 1
    work = _work(machine.size, machine.dtype, case)
    need, most = training_bytes(work, ranks), machine.gpu_bytes
    if machine.gpu and need > USABLE * most:
        raise NotPossible(f"it needs {need / USABLE / 1e9:.0f} GB on each GPU, which has {most / 1e9:.0f} GB")
    if world is None:
        world = init_world() if case.deepspeed else World(0, 1, machine.device)
    percent = vllm_percent(work, ranks if machine.gpu else 0, most)
    if case.keeps:
        work = replace(work, activation_bytes=room_bytes(work, ranks, most))
    began = time.perf_counter()
    trainer = make_trainer(machine, case, world, percent, round(work.activation_bytes / 1e6))
    started = time.perf_counter() - began
    try:
        figures = {
            "start_seconds": started, "planned_bytes": need, **_steps(machine, trainer, work),
            **(_cache(machine, trainer, work, percent) if case.engine == "vllm" else {}), **_synced(trainer),
            **(_saved(machine, trainer, work) if case.saves else {}),
            **(_asleep(trainer) if case.sleep else {}),
        }  # fmt: skip
        return {"said": _said(figures), **figures}
    finally:
        trainer.rollout_engine.close()
        if case.deepspeed:
            trainer.policy.engine.destroy()


def _work(size: Size, dtype: str, case: Case) -> TrainingWork:
    """A step in the numbers that the formulas of `srt.cost` take."""
    lengths = Lengths(PROMPT_TOKENS, size.new_tokens, PROMPT_TOKENS / 2, size.new_tokens / 3)
    return TrainingWork(
        shape=size.shape, lengths=lengths, prompts=size.prompts, responses=size.responses, dtype=dtype,
        vllm=case.engine == "vllm", steps=STEPS, trained=size.responses, reference_offload=case.offload,
        old_policy_pass=case.zero_stage == 3, zero_stage=case.zero_stage, engine_sleep=case.sleep,
        split_groups=case.keeps,
    )  # fmt: skip


def work_fits(size: Size, gpu_bytes: float) -> bool:
    """Whether the steps without DeepSpeed or under ZeRO 1 fit one GPU of `gpu_bytes`."""
    return training_bytes(_work(size, "bfloat16", Case()), 1) <= USABLE * gpu_bytes


def make_trainer(machine: Machine, case: Case, world: World, percent: int, activation_mb: int = 0) -> RLTrainer:
    """The trainer of a run of three steps on the random model."""
    folder = machine.folder / "run"
    segment = Segment(
        spec=machine.spec(rollout_engine=case.engine, zero_stage=case.zero_stage), base=machine.model, start=0,
        stop=STEPS, work=folder, model_out=folder / "model", state_out=folder / "state",
        metrics_out=folder / "metrics.parquet", vllm_percent=percent, reference_offload=case.offload,
        engine_sleep=case.sleep, activation_mb=activation_mb,
    )  # fmt: skip
    data, truth = read_training_set(machine.problems, "majority")
    return (RLTrainer if case.deepspeed else PlainTrainer)(segment, data, world, truth)


def _said(figures: dict[str, Any]) -> str:
    said = f"engine {figures['mismatch_mean']:.1g} nats from the trainer at most"
    if "planned_cache_tokens" in figures:
        said += f", cache of {figures['cache_tokens']:,} tokens ({figures['planned_cache_tokens']:,.0f} planned)"
    if "snapshot_seconds" in figures:
        said += (
            f", a save {figures['snapshot_seconds']:.1f} s and then {figures['save_seconds']:.1f} s in the background"
        )
    if "slept_bytes" in figures:
        said += f", {figures['slept_bytes'] / 1e9:.1f} GB given back while it sleeps"
    return said


def _steps(machine: Machine, trainer: RLTrainer, work: TrainingWork) -> dict[str, Any]:
    rows, memory = [], 0.0
    for step in range(STEPS):
        row, timing = trainer.timed_step(step)
        require(row["skipped"] == 0, f"step {step + 1}: the gradient is not finite")
        require(row["grad_norm"] > 0, f"step {step + 1}: the gradient is 0")
        memory = max(memory, timing["peak_memory"])
        rows.append((row, timing))
    first, (last, timing) = rows[0][0], rows[-1]
    require(last["kl"] > 0, "the policy is still the base model after three steps: the optimizer changes nothing")
    counts = trainer.update.work
    groups = [i // work.trained for i in range(len(counts["responses"]))]
    tokens = count_tokens(counts["prompts"], counts["responses"], groups)
    updating = sum(timing[f"seconds_{phase}"] for phase in PHASES)
    phases = {key: value for key, value in timing.items() if key.startswith("seconds_")}
    accounted = updating + timing["seconds_rollout"]
    return {
        "tokens": int(first["tokens"]), "first_grad_norm": first["grad_norm"], "first_entropy": first["entropy"],
        "mismatch_mean": max(row["mismatch_mean"] for row, _ in rows), "seconds": timing["seconds"], **phases,
        "seconds_update": updating, "seconds_other": timing["seconds"] - accounted,
        "update_flops": _flops(work, tokens),
        "tokens_per_second": timing["tokens_per_second"], "longest_response": max(counts["responses"]),
        "rollout_tokens_per_second": timing["rollout_tokens_per_second"],
        "update_tokens_per_second": timing["update_tokens_per_second"], "peak_bytes": memory,
    }  # fmt: skip


def _flops(work: TrainingWork, tokens: Tokens) -> float:
    again = recomputed_share(work, tokens.body / work.prompts, 1)
    return update_flops(work.shape, tokens, recompute=again, old_policy=work.old_policy_pass)


def _perturbed(weights: Iterable[tuple[str, torch.Tensor]], victim: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, one element of one tensor doubled."""
    for name, tensor in weights:
        if name == victim:
            tensor = tensor.clone()
            place = tensor.flatten().abs().argmax()
            tensor.view(-1)[place] *= 2
        yield name, tensor


def _synced(trainer: RLTrainer) -> dict[str, Any]:
    """Sync once more; every weight has to be the same, and one changed element has to be found."""
    policy, engine, dtype = trainer.policy, trainer.rollout_engine, trainer.train["dtype"]
    with policy.whole():
        began = time.perf_counter()
        engine.update_weights(policy.weights())
        seconds = time.perf_counter() - began
        names = [name for name, tensor in policy.weights() if tensor.dim() == 2 and "embed" not in name]
        victim = names[len(names) // 2]
        differ = differing_tensors(engine, policy.weights(), dtype)
        found = differing_tensors(engine, _perturbed(policy.weights(), victim), dtype)
    require(not differ, f"{len(differ)} tensors differ after a sync, first {(*differ, '')[0]}")
    require(found == [victim], f"one changed element of {victim} was not found: {found} differ")
    return {"sync_seconds": seconds}


def _saved(machine: Machine, trainer: RLTrainer, work: TrainingWork) -> dict[str, Any]:
    """Seconds of a save: the copy to host memory, for which training waits, and the write."""
    size = state_bytes(work.shape, work.dtype, work.zero_stage)
    if shutil.disk_usage(machine.folder).free < 1.5 * size:
        return {"save": f"not measured: less than {1.5 * size / 1e9:.0f} GB are free in {machine.folder}"}
    folder = machine.folder / "state"
    folder.mkdir()
    began = time.perf_counter()
    write = trainer.policy.snapshot(folder)
    copied = time.perf_counter()
    files = write()
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    written = time.perf_counter()
    total = sum(file.stat().st_size for file in files)
    shutil.rmtree(folder)
    return {"state_bytes": total, "snapshot_seconds": copied - began, "save_seconds": written - copied}


def _cache(machine: Machine, trainer: RLTrainer, work: TrainingWork, percent: int) -> dict[str, Any]:
    """vLLM's cache in tokens beside what its share of the memory leaves after the weights."""
    tokens = trainer.rollout_engine.cache_tokens  # type: ignore[attr-defined]
    if not machine.gpu:
        return {"cache_tokens": tokens}
    room = cache_bytes(work, trainer.world.size, machine.gpu_bytes)
    return {
        "cache_tokens": tokens, "vllm_percent": percent,
        "planned_cache_tokens": room / (BYTES[work.dtype] * work.shape.kv),
    }  # fmt: skip


def _asleep(trainer: RLTrainer) -> dict[str, Any]:
    """The memory that a sleeping engine gives back, and that it takes weights again."""
    before = torch.cuda.mem_get_info()[0]
    trainer.rollout_engine.release_memory()
    freed = torch.cuda.mem_get_info()[0] - before
    require(freed > 1e9, f"the engine gives {freed / 1e9:.1f} GB back when it sleeps")
    return {"slept_bytes": freed, **_synced(trainer)}


def in_two(machine: Machine) -> dict[str, Any]:
    """The steps of this process, one of two, under ZeRO 1, 2 and 3; figures of ZeRO 3."""
    world, norms, figures = init_world(), {}, {}
    for stage in STAGES:
        barrier(world)
        figures = take(machine, Case(zero_stage=stage), world)
        norms[stage] = figures["first_grad_norm"]
        machine.free()
    spread = max(norms.values()) - min(norms.values())
    apart = max(gather([spread / max(norms.values())], world))
    require(apart < 0.02, f"the gradient's norm in the first step differs by {apart:.1%} between ZeRO stages: {norms}")
    return {**figures, "said": f"ZeRO 1, 2 and 3: gradient norms of the first step within {apart:.1g}"}
