"""Bytes: of files, of a GPU's memory, of a node's.

GPU memory is an upper estimate, since a job that runs out of it fails: activations are counted at the limits of their
lengths, the cache at their means. A full fine-tune of a 7B under ZeRO 1 on 8 GPUs takes, in GB on each GPU: bfloat16
weights 15.2, float32 gradients 30.5, masters and moments (12 bytes per parameter, over 8 GPUs) 11.4, the reference
model 15.2, the rollout engine's weights 15.2, its workspace 2.5 and its cache 3.8, a group's activations 19.9, a layer
that is computed again 4.2, the head's logits and gradient 6, buckets and CUDA's context 4.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from srt.config.train import Checkpointing
from srt.cost.shapes import Shape
from srt.cost.work import SamplingWork, TrainingWork
from srt.rollout import GPU_SEQUENCES

BYTES = {"bfloat16": 2, "float32": 4}
# Logits that the trainer's head computes at a time on a GPU: 1,765 tokens over a vocabulary of 152,000
HEAD_LOGITS = 2**28
CACHED_SEQUENCES = 64  # of mean length that a trainer's engine decodes side by side; in more memory it decodes more
SAMPLED_SEQUENCES = 16  # of full length that a sampling job has memory for at least
BUCKETS = 3e9  # DeepSpeed's, to reduce and gather: 3 x 500 million numbers of 2 bytes
SUBGROUP = 1e9  # parameters that ZeRO 3 updates at a time
CONTEXT = 1.5e9  # CUDA, its libraries, NCCL
# vLLM beside weights and cache: its profiling pass of 4,096 tokens, logits of 512 sequences, CUDA graphs
ENGINE_WORKSPACE = 2.5e9
SAMPLING_VLLM_PERCENT = 90  # of a GPU's memory, which vLLM takes in a sampling job
HOST_BASE = 1.6e9  # a process without a GPU, and the two Snakemakes of its job
HOST_GPU = 5e9  # a process with CUDA and vLLM
HOST_SLACK = 1.2


# -- files -------------------------------------------------------------------------------------------------------------


def weight_bytes(shape: Shape, dtype: str) -> float:
    """A model folder: its weights."""
    return shape.total * BYTES[dtype]


def optimizer_bytes(shape: Shape, zero_stage: int) -> float:
    """AdamW's float32 moments, and from ZeRO 1 on float32 masters, which DeepSpeed keeps of float32 weights too."""
    return shape.total * (12 if zero_stage else 8)


def state_bytes(shape: Shape, dtype: str, zero_stage: int = 1) -> float:
    """A training state, weights and optimizer: 14 bytes per parameter in bfloat16, 16 in float32 (15.7 measured)."""
    return weight_bytes(shape, dtype) + optimizer_bytes(shape, zero_stage)


def sample_bytes(problems: int, n: int, mean: float) -> float:
    """Stored samples, scores and groups, compressed, for n responses of `mean` tokens per problem.

    7 bytes per token (token id, log-probability, text) and 40 per response. Measured on tiny models: 6.4 bytes per
    token, in files where responses differ little.
    """
    return problems * n * (7.0 * mean + 40.0) + 100.0 * problems


# -- a GPU -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainerBytes:
    """Bytes of a GPU that a trainer needs beside its rollout engine.

    held: always. update: also, in an update. sync: also, while weights go to the engine and it samples.
    """

    held: float
    update: float
    sync: float


def training_bytes(work: TrainingWork, gpus: int, on_gpus: bool = True) -> float:
    """Bytes that training needs on each of `gpus` GPUs at its peak, or without GPUs in one process.

    None counts as True for `reference_offload`, and for `engine_sleep` where the engine is vLLM.
    """
    engine, sleeps = engine_bytes(work, gpus), work.vllm and work.engine_sleep is not False
    trainer = trainer_bytes(work, gpus, on_gpus)
    # an engine that sleeps and an update never need their memory at the same time
    peak = max(trainer.update, trainer.sync + (engine if sleeps else 0.0))
    total = trainer.held + peak + (0.0 if sleeps else engine)
    return float(round(total, -3))  # so that equal sums stay equal, in whatever order they were added


def trainer_bytes(work: TrainingWork, gpus: int, on_gpus: bool = True) -> TrainerBytes:
    """What the trainer needs on each GPU, or without GPUs in one process.

    What is never in memory together counts once: a group's activations with the head's workspace, AdamW's temporary
    copy of its part of the weights, the weights that ZeRO 3 gathers for sampling, a reference that is in host memory
    between its passes.
    """
    parts = {stage: gpus if work.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    weights, parameters = weight_bytes(work.shape, work.dtype), work.shape.total
    states = weights / parts[3] + 4 * parameters / parts[2] + optimizer_bytes(work.shape, work.zero_stage) / parts[1]
    temporary = 4 * (min(parameters / gpus, SUBGROUP) if work.zero_stage == 3 else parameters / parts[1])
    reference = weights if work.reference else 0.0
    stays, comes = (reference, 0.0) if work.reference_offload is False else (0.0, reference)
    activations = activation_bytes(work, gpus) + workspace_bytes(work, gpus, on_gpus)
    update = max(activations, temporary, comes)
    return TrainerBytes(states + stays + on_gpus * (BUCKETS + CONTEXT), update, weights - weights / parts[3])


def activation_bytes(work: TrainingWork, gpus: int) -> float:
    """Activations kept for a backward pass: of one group, or of one pack where no graph outlives it.

    A group of mean length where longer ones go through the model twice (`work.split_groups`), else one at its limits.
    `work.activation_bytes` is not counted: layers keep more only where that memory is left.
    """
    lengths, responses = work.lengths, min(work.trained, work.sequences)
    group = lengths.prompt_limit + responses * lengths.response_limit
    if work.split_groups and work.checkpointing == "full":
        group = min(group, lengths.prompt + responses * lengths.response)
    pack = _largest_pack(work, gpus)
    tokens = pack if work.old_policy_pass else max(pack, min(group, _most_tokens(work, gpus)))
    return tokens * token_bytes(work.shape, work.dtype, work.checkpointing)


def workspace_bytes(work: TrainingWork, gpus: int, on_gpus: bool = True) -> float:
    """Beside kept activations: one layer of one pack that is computed again, and on a GPU the head's workspace."""
    kept, every = (token_bytes(work.shape, work.dtype, mode) for mode in (work.checkpointing, "none"))
    return _largest_pack(work, gpus) * (every - kept) / work.shape.layers + on_gpus * head_bytes(work)


def _largest_pack(work: TrainingWork, gpus: int) -> float:
    return min(_most_tokens(work, gpus), max(work.pack_tokens, work.lengths.limit))


def _most_tokens(work: TrainingWork, gpus: int) -> float:
    """Tokens of a GPU's responses and their prompts at their limits."""
    return math.ceil(work.sequences / gpus) * work.lengths.limit


def token_bytes(shape: Shape, dtype: str, mode: Checkpointing) -> float:
    """Bytes that the layers keep of a token until their backward pass.

    full: their inputs. selective: also the results of attention and of all products but the last of a layer. none: an
    upper estimate, for as many key heads as query heads.
    """
    numbers = {
        "none": 16 * shape.hidden + 4 * shape.intermediate,
        "selective": 2 * shape.hidden + 2 * shape.attention + shape.kv + 2 * shape.intermediate,
        "full": shape.hidden,
    }
    return BYTES[dtype] * numbers[mode]


def kept_layers(shape: Shape, dtype: str, tokens: float, room: float) -> int:
    """Layers that may keep as much as `selective`, the others as much as `full`: `tokens` tokens have `room` bytes.

    >>> from srt.cost.shapes import SHAPES
    >>> [kept_layers(SHAPES["Qwen/Qwen2.5-Math-7B"], "bfloat16", 21_588, room) for room in (4e9, 17e9, 39e9, 1e11)]
    [0, 5, 15, 28]
    """
    full, selective = (token_bytes(shape, dtype, mode) for mode in ("full", "selective"))
    each = tokens * (selective - full) / shape.layers
    return max(0, min(int(shape.layers), math.floor((room - tokens * full) / each)))


def holds(shape: Shape, dtype: str, tokens: float, room: float) -> bool:
    """Whether the graphs of `tokens` tokens fit into `room` bytes with `gradient_checkpointing: full`."""
    return tokens * token_bytes(shape, dtype, "full") <= room


def head_bytes(work: TrainingWork) -> float:
    """The trainer's head in its backward pass (`srt.packing.logprobs`): a chunk of logits and the weight's gradient.

    Logits twice in float32 and once in the weights' type; the gradient in float32, and a chunk's in the weights' type.
    """
    return HEAD_LOGITS * (8 + BYTES[work.dtype]) + work.shape.head * (4 + BYTES[work.dtype])


def engine_bytes(work: TrainingWork, gpus: int) -> float:
    """The rollout engine of a trainer: the cache, and with vLLM its workspace and its copy, or part, of the weights."""
    if not work.rollout_rounds:
        return 0.0
    sequences = math.ceil(work.sequences / gpus)
    if not work.vllm:
        return sequences * _cache_bytes(work)
    return fixed_engine_bytes(work) + min(CACHED_SEQUENCES, sequences) * _cache_bytes(work)


def fixed_engine_bytes(work: TrainingWork) -> float:
    """vLLM without its cache."""
    return weight_bytes(work.shape, work.dtype) / work.rollout_tensor_parallel + ENGINE_WORKSPACE


def useful_engine_bytes(work: TrainingWork, gpus: int) -> float:
    """vLLM with a cache for all its sequences at full length, and as much again for an error of this estimate."""
    sequences = min(GPU_SEQUENCES, math.ceil(work.sequences / gpus))
    weights = weight_bytes(work.shape, work.dtype) / work.rollout_tensor_parallel
    return weights + 2 * (ENGINE_WORKSPACE + sequences * work.lengths.limit * _token_bytes(work))


def sampling_bytes(work: SamplingWork) -> float:
    """A sampling job on its one GPU: weights, and a cache for a few sequences of full length."""
    cache = SAMPLED_SEQUENCES * work.lengths.limit * _token_bytes(work)
    return weight_bytes(work.shape, work.dtype) + CONTEXT + ENGINE_WORKSPACE + cache


def sampling_cache_bytes(work: SamplingWork, gpu_bytes: float) -> float:
    """The cache of a sampling job on a GPU of `gpu_bytes`."""
    return SAMPLING_VLLM_PERCENT / 100 * gpu_bytes - weight_bytes(work.shape, work.dtype) - ENGINE_WORKSPACE


def cached_sequences(work: SamplingWork, cache_bytes: float) -> float:
    """Sequences of mean length that a cache of `cache_bytes` holds; at least 1."""
    return max(1.0, cache_bytes / _cache_bytes(work))


def _token_bytes(work: SamplingWork) -> float:
    return BYTES[work.dtype] * work.shape.kv


def _cache_bytes(work: SamplingWork) -> float:
    """The cache of a sequence of mean length."""
    return work.lengths.mean * _token_bytes(work)


# -- a node ------------------------------------------------------------------------------------------------------------


def host_training_bytes(work: TrainingWork, gpus_on_node: int) -> float:
    """Host memory of a training job on one node, without the page cache.

    It holds a copy of the state while that is written. With GPUs every process also has the weights on the host before
    they go to its GPU, and the weights of a reference that stays there.
    """
    copy = state_bytes(work.shape, work.dtype, work.zero_stage)
    if gpus_on_node:
        weights = weight_bytes(work.shape, work.dtype)
        return HOST_SLACK * (HOST_BASE + gpus_on_node * (HOST_GPU + weights) + copy)
    whole = replace(work, zero_stage=0, reference_offload=False, engine_sleep=False, split_groups=False)
    everything = training_bytes(whole, 1, on_gpus=False)
    return HOST_BASE + HOST_SLACK * (everything + copy)


def host_sampling_bytes(work: SamplingWork, gpus: int) -> float:
    """Host memory of a sampling job, without the page cache."""
    weights = weight_bytes(work.shape, work.dtype)
    if gpus:
        return HOST_SLACK * (HOST_BASE + HOST_GPU + weights)
    return HOST_BASE + HOST_SLACK * 2 * weights
