"""What training and sampling cost: FLOPs, seconds, bytes. Pure functions of numbers; docs/cost.md has the sources.

Units are bytes, seconds, FLOP and tokens throughout. Not here: which jobs there are, what was measured (`srt.plan`).
The numbers of GPUs and the memory that a job asks for are `srt.cluster.resources`, which is generous where this is
central.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from srt.config.plan import PlanConfig

BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Shape:
    """What costs depend on, of a dense decoder.

    body: weights of all linear layers but the head; head: of the head (vocabulary x hidden); total: all weights, as
    stored (tied heads once); attention: layers x heads x head size; kv: numbers that a cached token keeps.
    """

    body: float
    head: float
    total: float
    attention: float
    kv: float

    @property
    def matmul(self) -> float:
        """Weights that every token is multiplied with: N of 2N FLOP a token."""
        return self.body + self.head


def decoder(
    layers: int, hidden: int, heads: int, kv_heads: int, head_size: int, intermediate: int, vocabulary: int, tied: bool
) -> Shape:
    """The shape of a Llama- or Qwen-like decoder: grouped-query attention, gated feed-forward.

    >>> round(decoder(28, 3584, 28, 4, 128, 18944, 152064, False).total / 1e9, 2)  # Qwen2.5-7B: 7.62 with biases
    7.62
    """
    attention = hidden * head_size * (2 * heads + 2 * kv_heads)
    body = float(layers * (attention + 3 * hidden * intermediate))
    head = float(vocabulary * hidden)
    return Shape(
        body=body,
        head=head,
        total=body + head * (1 if tied else 2),
        attention=float(layers * heads * head_size),
        kv=2.0 * layers * kv_heads * head_size,
    )


# From the models' config.json. Qwen2.5-1.5B is what benchmarks use.
SHAPES = {
    "Qwen/Qwen2.5-Math-7B": decoder(28, 3584, 28, 4, 128, 18944, 152064, tied=False),
    "Qwen/Qwen2.5-1.5B": decoder(28, 1536, 12, 2, 128, 8960, 151936, tied=True),
    "Qwen/Qwen3-14B-Base": decoder(40, 5120, 40, 8, 128, 17408, 151936, tied=False),
    "Qwen/Qwen3-4B-Base": decoder(36, 2560, 32, 8, 128, 9728, 151936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": decoder(32, 4096, 32, 8, 128, 14336, 128256, tied=False),
}
_ANCHOR = SHAPES["Qwen/Qwen2.5-Math-7B"]


def scaled(parameters: float) -> Shape:
    """A guess for a model of which only the size is known: Qwen2.5-7B's shape, width times depth by the 2/3 power."""
    share, width = parameters / _ANCHOR.total, (parameters / _ANCHOR.total) ** (2 / 3)
    return Shape(_ANCHOR.body * share, _ANCHOR.head * share, parameters, _ANCHOR.attention * width, _ANCHOR.kv * width)


# -- tokens ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def length_scale(mean: float, limit: float) -> float:
    """Scale m of an exponential law of lengths, cut at `limit` tokens, whose mean is `mean` tokens.

    The cut law has the mean m (1 - exp(-limit / m)). A mean of half the limit or more makes it flat: then everything
    runs to the limit, and m is infinite.
    """
    if mean >= limit:
        return math.inf
    lo, hi = mean, mean * 2.0**20
    if hi * (1 - math.exp(-limit / hi)) < mean:
        return math.inf
    for _ in range(80):
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if middle * -math.expm1(-limit / middle) < mean else (lo, middle)
    return (lo + hi) / 2


def longest(sequences: float, mean: float, limit: float) -> float:
    """Expected tokens of the longest of `sequences` responses: m times the harmonic number, `limit` at most.

    >>> longest(512, 670, 3072)  # of 512 responses one always runs to the limit
    3072.0
    """
    scale = length_scale(mean, limit)
    if math.isinf(scale) or sequences < 1:
        return float(limit)
    harmonic = math.log(sequences) + 0.5772156649 + 1 / (2 * sequences) if sequences > 1 else 1.0
    return float(min(limit, scale * harmonic))


# -- seconds -----------------------------------------------------------------------------------------------------------


def pass_flops(shape: Shape, tokens: float, context: float) -> float:
    """FLOP of one forward pass over `tokens` tokens of sequences that are `context` tokens long: 2N a token, and causal
    attention, 2 d context a token with d = layers x heads x head size. A backward pass costs two of them."""
    return tokens * (2 * shape.matmul + 2 * shape.attention * context)


def update_flops(
    shape: Shape, tokens: float, context: float, recompute: bool, reference: bool = True, old_policy: bool = False
) -> float:
    """FLOP of one optimizer step over `tokens` tokens, counted in forward passes: 3 for gradients (forward, backward),
    1 for the reference policy, 1 to recompute activations, 1 for a pass of the old policy (not in this trainer).

    So 8N a token without and 10N with recomputation; TRL and verl pay 12N.
    """
    return pass_flops(shape, tokens, context) * (3 + recompute + reference + old_policy)


def update_seconds(flops: float, gpus: int, threads: int, rates: PlanConfig) -> float:
    """Seconds for so many FLOP on `gpus` GPUs, or on CPU threads if there are none."""
    if gpus:
        return flops / (gpus * rates.peak_flops * rates.efficiency)
    return flops / (threads * rates.cpu_flops)


def decode_seconds(
    shape: Shape, sequences: float, prompt: float, mean: float, limit: float, gpus: int, rates: PlanConfig,
    dtype: str = "bfloat16", threads: int = 1, eager: float = 1.0, of: float | None = None,
) -> float:  # fmt: skip
    """Seconds until the last of `sequences` responses that one GPU (or CPU process) decodes side by side is done.

    Each token of the longest costs one pass over the weights and the cache of those still alive (or their FLOP, if that
    takes longer), and `launch_seconds`. `of`: responses of all GPUs, whose longest one all wait for. `eager`: how many
    times slower a token is without CUDA graphs.
    """
    end = longest(of or sequences, mean, limit)
    scale = length_scale(mean, limit)
    at = (np.arange(256) + 0.5) * end / 256  # midpoints: 256 are exact to 1e-3 here
    alive = np.maximum(sequences * (np.exp(-at / scale) if math.isfinite(scale) else 1.0), 1.0)
    flop = alive * (2 * shape.matmul + 4 * shape.attention * (prompt + at))
    if not gpus:
        return float(np.mean(flop / (threads * rates.cpu_flops) + rates.launch_seconds) * end)
    size = BYTES[dtype]
    read = size * (shape.matmul + alive * shape.kv * (prompt + at))
    compute = flop / (rates.peak_flops * rates.efficiency)
    token = np.maximum(read / rates.bandwidth, compute) + rates.launch_seconds
    return float(np.mean(token) * end * eager)


@dataclass(frozen=True)
class Step:
    """Seconds of one training step by phase."""

    rollout: float
    update: float
    other: float
    save: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.rollout + self.update + self.other + self.save


def train_step(
    shape: Shape, prompts: int, rollouts: int, prompt: float, mean: float, limit: float, gpus: int, rates: PlanConfig,
    *, trained: int | None = None, dtype: str = "bfloat16", threads: int = 1, recompute: bool = True,
    reference: bool = True, old_policy: bool = False, eager: float = 1.0, save_every: int = 10,
    background: bool = True, share_prompts: bool = True, offload: bool = False, zero_stage: int = 1,
    pack: int = 16384,
) -> Step:  # fmt: skip
    """One step: `prompts` x `rollouts` responses, of which `trained` a prompt are trained on (default: all).

    Rollouts wait for the longest response of all GPUs; prompts are prefilled once for all their responses.

    Args:
        save_every: steps between two states. Written in the `background`, only the copy to host memory takes time.
        share_prompts: the update's passes hold a prompt once for all its responses; else once for each.
        offload: the reference's weights come from host memory, once a step.
        pack: tokens of one forward pass; under ZeRO 2 and 3 each of them communicates.
    """
    ranks = max(1, gpus)
    sequences = prompts * rollouts
    prefill = update_seconds(pass_flops(shape, prompts * prompt, prompt / 2), gpus, threads, rates)
    decode = decode_seconds(
        shape, sequences / ranks, prompt, mean, limit, gpus, rates, dtype, threads, eager, of=sequences
    )
    group = prompt * (1 if share_prompts else trained or rollouts) + (trained or rollouts) * mean
    flops = update_flops(shape, prompts * group, prompt + mean, recompute, reference, old_policy)
    passes = math.ceil(prompts / ranks) * max(1.0, group / pack)
    moved = communicated(shape, passes, ranks, zero_stage, dtype, old_policy) / rates.gpu_link_rate
    fetched = weight_bytes(shape, dtype) / rates.host_link_rate if offload else 0.0
    saved = state_bytes(shape, dtype) / (ranks * rates.host_copy_rate if background else rates.disk_rate)
    return Step(
        rollout=prefill + decode,
        update=update_seconds(flops, gpus, threads, rates) + moved + fetched,
        other=rates.step_seconds if gpus else 0.0,
        save=saved / save_every,
    )


def communicated(shape: Shape, passes: float, ranks: int, zero_stage: int, dtype: str, old_policy: bool) -> float:
    """Bytes that each GPU sends and gets a step: gradients and weights once, under ZeRO 2 and 3 also in every pass.

    A ring moves (ranks - 1) / ranks of the weights' bytes to reduce-scatter or to gather. ZeRO 2 reduces in each
    backward pass; ZeRO 3 also gathers for each forward and each backward pass.
    """
    times = {0: 2.0, 1: 2.0, 2: passes + 1, 3: passes * (4 if old_policy else 3)}[zero_stage]
    return times * weight_bytes(shape, dtype) * (ranks - 1) / ranks


def refill_rounds(size: int, kept: float, most: int) -> float:
    """Expected rounds of `size` prompts, each kept with probability `kept`, until `size` are kept; `most` at most.

    >>> round(refill_rounds(16, 0.5, 4), 2), refill_rounds(16, 1.0, 4)
    (2.44, 1.0)
    """
    return math.fsum(_binomial_below(size * drawn, kept, size) for drawn in range(most))


def _binomial_below(trials: int, p: float, bound: int) -> float:
    """Probability that fewer than `bound` of `trials` succeed."""
    return math.fsum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(min(bound, trials + 1)))


def segment_seconds(
    step: Step, steps: int, shape: Shape, dtype: str, gpus: int, rates: PlanConfig,
    states: Literal["background", "waiting", "none"] = "background",
) -> float:  # fmt: skip
    """A training job of `steps` steps: start, steps, the model that it writes in the end, the states at its two ends.

    `background`: each rank reads, writes and hashes its part of them; `waiting`: one core hashes them whole.
    """
    start = rates.start_seconds if gpus else rates.cpu_seconds
    model, state, ranks = weight_bytes(shape, dtype), state_bytes(shape, dtype), max(1, gpus)
    ends = {
        "background": disk_seconds(state / ranks, state, rates)  # the first rank also writes the weights
        + disk_seconds(model + (state - model) / ranks, state, rates),
        "waiting": 2 * state / rates.disk_rate,
        "none": 0.0,
    }[states]
    return start + steps * step.seconds + model / rates.disk_rate + ends


def disk_seconds(part: float, whole: float, rates: PlanConfig) -> float:
    """Seconds until the largest of the parts of `whole` bytes that processes write side by side is done."""
    return max(part / rates.disk_rate, whole / rates.disk_limit)


def sampling_seconds(
    shape: Shape, problems: int, n: int, prompt: float, mean: float, limit: float, gpus: int, rates: PlanConfig,
    dtype: str = "bfloat16", threads: int = 1,
) -> float:  # fmt: skip
    """A sampling job: `problems` x n responses from one process, `sequences_at_once` side by side, refilled.

    While the queue lasts, each token of all sequences costs one pass; the rest is `decode_seconds`.
    """
    sequences = problems * n
    start = rates.start_seconds if gpus else rates.cpu_seconds
    if not sequences:
        return start
    batch = min(sequences, rates.sequences_at_once)
    queued = (sequences - batch) * mean / batch  # tokens of each slot before the queue is empty
    flop = batch * (2 * shape.matmul + 4 * shape.attention * (prompt + mean))
    if gpus:
        read = BYTES[dtype] * (shape.matmul + batch * shape.kv * (prompt + mean))
        token = max(read / rates.bandwidth, flop / (rates.peak_flops * rates.efficiency)) + rates.launch_seconds
    else:
        token = flop / (threads * rates.cpu_flops) + rates.launch_seconds
    prefill = update_seconds(pass_flops(shape, problems * prompt, prompt / 2), min(gpus, 1), threads, rates)
    tail = decode_seconds(shape, batch, prompt, mean, limit, gpus, rates, dtype, threads)
    return start + prefill + queued * token + tail


# -- bytes -------------------------------------------------------------------------------------------------------------


def weight_bytes(shape: Shape, dtype: str) -> float:
    """A model folder: its weights."""
    return shape.total * BYTES[dtype]


def state_bytes(shape: Shape, dtype: str) -> float:
    """A training state: weights in the compute dtype, float32 masters where that is not float32, two moments.

    14 bytes a parameter in bfloat16. In float32 DeepSpeed keeps its flat masters all the same: 16 (15.7 measured).
    """
    return shape.total * (BYTES[dtype] + 12)


def sample_bytes(problems: int, n: int, mean: float) -> float:
    """Stored samples, scores and groups, compressed: 7 bytes a token (token id, log-probability, text), 40 a response.

    Measured on tiny models: 6.4 bytes a token, in files where responses differ little.
    """
    return problems * n * (7.0 * mean + 40.0) + 100.0 * problems
