"""Seconds of training steps, segments and sampling jobs. docs/cost.md has the table of formulas and their sources."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from srt.cost.flops import Tokens, count_tokens, forward_flops, update_flops
from srt.cost.lengths import length_scale, longest, refill_rounds
from srt.cost.memory import (
    BYTES,
    cached_sequences,
    holds,
    kept_layers,
    sampling_cache_bytes,
    state_bytes,
    weight_bytes,
)
from srt.cost.parameters import Parameters
from srt.cost.work import SamplingWork, TrainingWork
from srt.rollout import GPU_SEQUENCES

WITHOUT_CUDA_GRAPHS = 4.0  # a decoded token's time over that with them: 3 to 4 times (docs/cost.md)


@dataclass(frozen=True)
class Step:
    """Seconds of one training step by phase."""

    rollout: float
    update: float
    other: float
    save: float

    @property
    def seconds(self) -> float:
        """All phases together."""
        return self.rollout + self.update + self.other + self.save


def compute_seconds(flops: float, gpus: int, threads: int, assumed: Parameters) -> float:
    """Seconds for `flops` on `gpus` GPUs, or on CPU threads if there are none."""
    return flops / (gpus * assumed.flops if gpus else threads * assumed.cpu_flops)


# -- decoding ----------------------------------------------------------------------------------------------------------


def token_seconds(work: SamplingWork, alive: Any, context: Any, gpus: int, assumed: Parameters) -> Any:
    """Seconds for one more token of each of `alive` sequences of `context` tokens, on one GPU or in one CPU process.

    One pass over the weights and the cache, or its FLOP if they take longer, and `launch_seconds`. GPUs that share an
    engine read a part of the weights each, and add up their results twice per layer. Numbers or arrays.
    """
    flops = forward_flops(work.shape, Tokens(alive, alive, alive * context))
    if not gpus:
        return compute_seconds(flops, 0, work.threads, assumed) + assumed.launch_seconds
    shared = work.rollout_tensor_parallel
    read = BYTES[work.dtype] * (work.shape.matmul / shared + alive * work.shape.kv * context)
    slower = assumed.decode_slowdown * (1.0 if work.vllm else WITHOUT_CUDA_GRAPHS)
    seconds = np.maximum(read / assumed.bandwidth, flops / assumed.flops) + assumed.launch_seconds
    if shared > 1:
        # two all-reduces in each layer, in which a ring sends each value of all `shared` GPUs' sequences almost twice
        sent = BYTES[work.dtype] * 2 * (shared - 1) * alive * 2 * work.shape.hidden
        seconds = seconds + 2 * work.shape.layers * assumed.all_reduce_seconds + sent / assumed.gpu_link_rate
    return slower * seconds


def decode_seconds(
    work: SamplingWork, sequences: float, gpus: int, assumed: Parameters, of: float | None = None
) -> float:
    """Seconds until the last of `sequences` responses that one GPU (or CPU process) decodes side by side is complete.

    Sequences end by the exponential law of lengths, and each token of the longest one costs a pass over those left.

    Args:
        of: responses of all GPUs, when each waits for the longest of all; None: `sequences`.
    """
    mean, limit = work.lengths.response, work.lengths.response_limit
    end, scale = longest(of or sequences, mean, limit), length_scale(mean, limit)
    at = (np.arange(256) + 0.5) * end / 256  # midpoints: 256 are exact to 1e-3 here
    alive = np.maximum(sequences * (np.exp(-at / scale) if math.isfinite(scale) else 1.0), 1.0)
    return float(np.mean(token_seconds(work, alive, work.lengths.prompt + at, gpus, assumed)) * end)


def queue_seconds(
    work: SamplingWork, sequences: float, side_by_side: float, gpus: int, assumed: Parameters, of: float | None = None
) -> float:
    """Seconds for `sequences` responses of which at most `side_by_side` are decoded at a time, on one GPU or a CPU.

    While others are waiting a new one takes the place of each that ends, and each token of all of them costs one pass;
    the rest is `decode_seconds`.
    """
    batch = min(sequences, side_by_side)
    queued = (sequences - batch) * work.lengths.response / batch  # tokens of each slot before none is waiting
    token = float(token_seconds(work, batch, work.lengths.mean, gpus, assumed))
    return queued * token + decode_seconds(work, batch, gpus, assumed, of)


def prefill_seconds(work: SamplingWork, gpus: int, assumed: Parameters) -> float:
    """Seconds for the prompts, each once for all its responses."""
    prompt = work.lengths.prompt
    tokens = Tokens(prompt, 1, prompt * (prompt + 1) / 2).times(work.prompts)
    return compute_seconds(forward_flops(work.shape, tokens), gpus, work.threads, assumed)


# -- training ----------------------------------------------------------------------------------------------------------


def step_seconds(work: TrainingWork, gpus: int, assumed: Parameters) -> Step:
    """One training step on `gpus` GPUs, or in one CPU process. Rollouts wait for the longest response of all GPUs."""
    ranks, shape, lengths = max(1, gpus), work.shape, work.lengths
    drawn = refill_rounds(work.prompts, assumed.refill_kept, work.rollout_rounds)
    room = (
        min(cached_sequences(work, work.cache_bytes), GPU_SEQUENCES / work.rollout_tensor_parallel)
        if gpus and work.vllm
        else math.inf
    )
    decode = queue_seconds(work, work.sequences / ranks, room, gpus, assumed, of=work.sequences)
    decode += assumed.sleep_seconds if gpus and work.engine_sleep else 0.0
    group = count_tokens(
        [lengths.prompt] * work.trained, [lengths.response] * work.trained,
        [0] * work.trained if work.share_prompts else None,
    )  # fmt: skip
    flops = update_flops(
        shape, group.times(work.prompts), reference=work.reference,
        recompute=recomputed_share(work, group.body, ranks),
        old_policy=work.old_policy_pass or passes_twice(work, group.body),
    )  # fmt: skip
    passes = math.ceil(work.prompts / ranks) * max(1.0, group.body / work.pack_tokens)
    moved = communicated_bytes(work, passes, ranks) / assumed.gpu_link_rate
    fetched = weight_bytes(shape, work.dtype) / assumed.host_link_rate if work.reference_offload else 0.0
    return Step(
        rollout=drawn * (prefill_seconds(work, gpus, assumed) + decode) if drawn else 0.0,
        update=compute_seconds(flops, gpus, work.threads, assumed) + moved + fetched,
        other=assumed.step_seconds if gpus else assumed.cpu_step_seconds,
        save=_save_seconds(work, ranks, assumed) / work.save_every,
    )


def recomputed_share(work: TrainingWork, group: float, ranks: int) -> float:
    """Share of the layers that backward passes compute again, for groups of `group` tokens."""
    if work.checkpointing != "full":
        return 0.0
    pack = min(work.pack_tokens, math.ceil(work.prompts / ranks) * group)
    tokens = pack if work.old_policy_pass or passes_twice(work, group) else max(pack, group)
    return 1.0 - kept_layers(work.shape, work.dtype, tokens, work.activation_bytes) / work.shape.layers


def passes_twice(work: TrainingWork, group: float) -> bool:
    """Whether a group of `group` tokens goes through the model twice, as its graphs exceed the room for activations."""
    if not (work.split_groups and work.activation_bytes) or work.checkpointing != "full" or group <= work.pack_tokens:
        return False
    return not holds(work.shape, work.dtype, group, work.activation_bytes)


def _save_seconds(work: TrainingWork, ranks: int, assumed: Parameters) -> float:
    """What training waits for when it saves a state: the copy to host memory, or all of it."""
    state = state_bytes(work.shape, work.dtype, work.zero_stage)
    waits = {"background": state / (ranks * assumed.host_copy_rate), "waiting": state / assumed.disk_rate, "none": 0.0}
    return waits[work.states]


def communicated_bytes(work: TrainingWork, passes: float, ranks: int) -> float:
    """Bytes that each GPU sends and receives per step: gradients and weights once, under ZeRO 2 and 3 also per pass.

    A ring moves (ranks - 1) / ranks of the weights' bytes to reduce-scatter or to gather. ZeRO 2 reduces in each
    backward pass; ZeRO 3 also gathers for each forward and each backward pass.
    """
    times = {0: 2.0, 1: 2.0, 2: passes + 1, 3: passes * (4 if work.old_policy_pass else 3)}[work.zero_stage]
    return times * weight_bytes(work.shape, work.dtype) * (ranks - 1) / ranks


def segment_seconds(work: TrainingWork, gpus: int, assumed: Parameters) -> float:
    """A training job: start, steps, the model that it writes in the end, the states at its two ends.

    States in the background: each rank reads, writes and hashes its part; else one core reads and writes them whole.
    """
    start = assumed.start_seconds if gpus else assumed.cpu_seconds
    ranks, model = max(1, gpus), weight_bytes(work.shape, work.dtype)
    state = state_bytes(work.shape, work.dtype, work.zero_stage)
    ends = {
        "background": disk_seconds(state / ranks, state, assumed)  # the first rank also writes the weights
        + disk_seconds(model + (state - model) / ranks, state, assumed),
        "waiting": 2 * state / assumed.disk_rate,
        "none": 0.0,
    }[work.states]
    return start + work.steps * step_seconds(work, gpus, assumed).seconds + model / assumed.disk_rate + ends


def disk_seconds(part: float, whole: float, assumed: Parameters) -> float:
    """Seconds until the largest part of `whole` bytes that processes write side by side is written."""
    return max(part / assumed.disk_rate, whole / assumed.disk_limit)


# -- sampling ----------------------------------------------------------------------------------------------------------


def sampling_seconds(work: SamplingWork, gpus: int, gpu_bytes: float, assumed: Parameters) -> float:
    """A sampling job: one process on one GPU (or none), which keeps as many sequences side by side as it may.

    `sequences_at_once` of them, or as many as its cache holds (`queue_seconds`).
    """
    start = assumed.start_seconds if gpus else assumed.cpu_seconds
    if not work.sequences:
        return start
    room = cached_sequences(work, sampling_cache_bytes(work, gpu_bytes)) if gpus else math.inf
    decode = queue_seconds(work, work.sequences, min(assumed.sequences_at_once, room), gpus, assumed)
    return start + prefill_seconds(work, min(gpus, 1), assumed) + decode
