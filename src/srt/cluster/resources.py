"""What a job asks for, from the size of its model: GPUs, memory, time, cores. Pure functions of numbers.

They only size requests and change no result. Sizes are anchored at Qwen2.5-7B (7.6e9 parameters) on H200 GPUs, from
the sources below; what grows with depth times width goes by the 2/3 power of the parameters.

- Memory of a 7B full fine-tune under ZeRO-1 on 8 GPUs: bfloat16 weights 15.2 GB, float32 gradients 30.5, 12 bytes of
  masters and moments a parameter over 8 GPUs 11.4; the reference model 15.2; the rollout engine's copy 15.2 and its
  cache of 64 sequences x 4,096 tokens x 57,344 bytes 15: 103 GB. A quarter of that cache is asked for here: 64
  responses of usual length, so that a longer one waits.
- A checkpointed token keeps 196 KiB until its backward. The trainer keeps one group's graph at a time
(srt.training.update), or
  one pack's: counted at its limits, since one long group is enough to run out of memory.
- What is never there together counts once: that graph, AdamW's temporary copy of its shard, the weights that ZeRO 3
  gathers for sampling, and a reference that waits in host memory between its passes.
- Rates of an H200: 4.3 TB/s of memory, measured; 45 % of 989 TFLOP/s bfloat16, the share that verl and TRL reach.
  Decoding reads the weights once a token, 4.5 ms against 3.5 in theory: a factor of 1.3. Without CUDA graphs 4 times.
- Tokens: 850 of the 4,096 allowed ones in the paper's setting, 0.21; counted here as a quarter.
- Update: 8 FLOP a parameter and token, 2 of them the reference model, and 2 more with gradient checkpointing.

Times are estimates of a usual run, multiplied by SAFETY: 7B at the paper's batch gets about 90 s a step, where the
authors' configuration is put at 60 to 100 and this trainer's at 25 to 30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from srt.cluster.partitions import ClusterLimits, JobRequest
from srt.common.errors import SrtError
from srt.config.models import JobSize
from srt.config.preferences import OFFLINE
from srt.config.root import Config

SAFETY = 3.0  # asked time over estimated time
MINUTES_STEP = 30  # times are rounded up to this, so that a small change of a number changes no request
START_SECONDS = {True: 600.0, False: 120.0}  # two Snakemakes, imports, weights from disk; on a GPU vLLM's graphs

ANCHOR = 7.6e9
KV_BYTES = 57_344.0  # a token in the cache of a 7.6e9 model, bfloat16
INPUT_BYTES = 196 * 1024.0  # a token's checkpointed layer inputs, bfloat16
ACTIVATIONS = 17  # times as much when nothing is recomputed
FILL = 0.25  # tokens that there are, of those that the limits allow
CACHED_SEQUENCES = 64  # of usual length, decoded at a time by a trainer's engine; in more room it decodes more
BUCKETS = 3e9  # DeepSpeed's, to reduce and gather: 3 x 500 million numbers of 2 bytes
SUBGROUP = 1e9  # parameters that ZeRO 3 updates at a time
WORKSPACE = 6e9  # CUDA context, logits of 4,096 tokens over a vocabulary of 152,000 in float32, twice
ENGINE_PERCENT = 30  # where it decides nothing
USABLE = 0.92  # of a GPU's memory: the allocator's fragments

BATCH_WIDE = ("reinforce", "reinforce_pp")  # srt.objective.advantages.BATCH_ESTIMATORS, which would import torch here

FLOPS = 0.45 * 989e12
BANDWIDTH = 4.3e12 / 1.3
EAGER = 4.0
CPU_FLOPS = 1e10  # a thread
STEP_SECONDS = 2.0  # a step's votes, weight sync, logs
DISK = 1e9  # bytes a second to write and hash a state
DECODED_AT_ONCE = 1024

CORES_PER_GPU = 4
HOST_BASE_MB = 1600  # a process without GPU, and the two Snakemakes of its job
HOST_GPU_MB = 5000  # a process with CUDA and vLLM
HOST_SLACK = 1.2
BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Work:
    """The numbers that decide what a job needs.

    Args:
        parameters: of the model.
        sequences: a step of training (prompts x rollouts), or all that a sampling job draws.
        prompt_tokens, response_tokens: their limits.
        dtype: of weights and activations.
        vllm: rollouts by vLLM, with a copy of the weights and a cache; else by transformers.
        steps: of the segment; 0 for a sampling job.
        prompts: of a step; a training process needs one at least.
        samples_a_prompt: how many sequences share one prefill.
        save_every: steps between two saved states.
        zero_stage: DeepSpeed's: 1 splits masters and moments over GPUs, 2 gradients too, 3 weights too.
        checkpointing: activations are recomputed in the backward pass.
        threads: CPU threads of a process.
        rounds: of rollouts a step draws at most (`refill`); 0: its responses are stored.
        trained: sequences of a group that are trained on; None: all.
        micro_batch_tokens: of a pack.
        two_pass: log-probs come in a pass of their own, so that no graph is kept for longer than a pack.
        reference_offload: the reference waits in host memory between its passes; None: where it fits only so.
        engine_sleep: vLLM gives its memory back between rollouts.
        tensor_parallel: GPUs that share one vLLM engine.
    """

    parameters: float
    sequences: int
    prompt_tokens: int
    response_tokens: int
    dtype: str = "bfloat16"
    vllm: bool = True
    steps: int = 0
    prompts: int = 1
    samples_a_prompt: int = 32
    save_every: int = 10
    zero_stage: int = 1
    checkpointing: bool = True
    threads: int = 1
    rounds: int = 1
    trained: int | None = None
    micro_batch_tokens: int = 16384
    two_pass: bool = False
    reference_offload: bool | None = None
    engine_sleep: bool = False
    tensor_parallel: int = 1

    @property
    def weights(self) -> float:
        """Bytes of the weights."""
        return BYTES[self.dtype] * self.parameters

    @property
    def context(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt_tokens + self.response_tokens

    @property
    def width(self) -> float:
        """Depth times width, and bytes a number, over those of the anchor."""
        return (self.parameters / ANCHOR) ** (2 / 3) * BYTES[self.dtype] / 2


def gpu_memory(work: Work, gpus: int) -> float:
    """Bytes that each of `gpus` GPUs needs for this work at its peak; `reference_offload` None counts as True."""
    if work.steps == 0:  # sampling: weights, and room for a few sequences of full length
        return work.weights + WORKSPACE + 16 * work.context * KV_BYTES * work.width
    engine = engine_memory(work, gpus) if work.vllm else math.ceil(work.sequences / gpus) * _cached(work)
    engine *= work.rounds > 0
    held, update, sync = _trainer_memory(work, gpus)
    total = held + (max(update, sync + engine) if work.engine_sleep else max(update, sync) + engine)
    return float(round(total, -3))  # equal sums stay equal, in whatever order they were added


def _trainer_memory(work: Work, gpus: int) -> tuple[float, float, float]:
    """Bytes that a trainer holds always, in an update, and while weights go to the engine and it samples."""
    sharded = {stage: gpus if work.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    optimizer = 12 if work.dtype == "bfloat16" else 8  # float32 weights are their own masters
    states = work.weights / sharded[3] + 4 * work.parameters / sharded[2] + optimizer * work.parameters / sharded[1]
    temporary = 4 * (min(work.parameters / gpus, SUBGROUP) if work.zero_stage == 3 else work.parameters / sharded[1])
    stays, comes = (work.weights, 0.0) if work.reference_offload is False else (0.0, work.weights)  # the reference
    update = max(graph_memory(work, gpus), temporary, comes)
    return states + stays + BUCKETS + WORKSPACE, update, work.weights - work.weights / sharded[3]


def graph_memory(work: Work, gpus: int) -> float:
    """Bytes of activations kept for a backward pass: of one group at its limits, or of one pack."""
    group = work.prompt_tokens + min(work.trained or work.samples_a_prompt, work.sequences) * work.response_tokens
    tokens = max(work.micro_batch_tokens, work.context, 0 if work.two_pass or work.zero_stage == 3 else group)
    kept = INPUT_BYTES * (1 if work.checkpointing else ACTIVATIONS) * work.width
    return min(tokens, math.ceil(work.sequences / gpus) * work.context) * kept


def needs_offload(work: Work, gpus: int, gpu_bytes: float) -> bool:
    """Whether the reference waits in host memory: as the work says, else if it does not fit otherwise."""
    if work.reference_offload is not None or gpus == 0:
        return bool(work.reference_offload)
    return gpu_memory(replace(work, reference_offload=False), gpus) > USABLE * gpu_bytes


def _cached(work: Work) -> float:
    """Bytes of the cache of one sequence of usual length."""
    return FILL * work.context * KV_BYTES * work.width


def engine_memory(work: Work, gpus: int) -> float:
    """Bytes that vLLM needs on a GPU beside the trainer: its copy, or its part, of the weights, and its cache."""
    sequences = min(CACHED_SEQUENCES, math.ceil(work.sequences / gpus))
    return work.weights / work.tensor_parallel + sequences * _cached(work)


def engine_percent(work: Work, gpus: int, gpu_bytes: float) -> int:
    """vLLM's share of a GPU's memory beside the trainer: all that this one leaves, between 10 and 60 percent."""
    if gpus == 0 or not work.vllm:
        return ENGINE_PERCENT
    held, update, sync = _trainer_memory(work, gpus)
    left = USABLE * gpu_bytes - held - (sync if work.engine_sleep else max(update, sync))
    return min(60, max(10, math.floor(100 * left / gpu_bytes)))


def least_gpus(work: Work, gpu_bytes: float, per_node: int = 8, most: int = 64) -> int:
    """The smallest number of GPUs whose memory holds this work: 1, 2, 4, … of one node, then whole nodes.

    Raises:
        SrtError: no number does; the sentence names the way out.
    """
    within = [n for n in (2**k for k in range(per_node.bit_length())) if n < per_node]
    counts = [*within, *range(per_node, most + 1, per_node)] if work.steps else [1]
    counts = [n for n in counts if n <= max(1, work.prompts)] if work.steps else counts
    counts = [n for n in counts if n % work.tensor_parallel == 0]
    if not counts:
        raise SrtError(
            f"rollout_tensor_parallel {work.tensor_parallel} divides no number of GPUs for {work.prompts} prompts a "
            "step: lower it, or set the number of GPUs by hand"
        )
    for gpus in counts:
        if gpu_memory(work, gpus) <= USABLE * gpu_bytes:
            return gpus
    need = gpu_memory(work, counts[-1]) / USABLE / 1e9
    raise SrtError(
        f"a model of {work.parameters / 1e9:.3g}e9 parameters needs GPUs of {need:.0f} GB, also on {counts[-1]} of "
        f"them, and these have {gpu_bytes / 1e9:.0f} GB: "
        + ("use a higher zero_stage, shorter responses, or set" if work.steps else "set")
        + " the model's number of GPUs by hand"
    )


def host_memory_mb(work: Work, gpus_on_node: int) -> int:
    """Memory of a job on one node, in MB, page cache not counted."""
    copy = (work.weights + 12 * work.parameters) / 1e6 if work.steps else 0.0  # of the state, while it is written
    if gpus_on_node:  # every process reads the weights on the host before they go to its GPU; a reference stays there
        return math.ceil(HOST_SLACK * (HOST_BASE_MB + gpus_on_node * (HOST_GPU_MB + work.weights / 1e6) + copy))
    if work.steps == 0:
        return math.ceil(HOST_BASE_MB + HOST_SLACK * 2 * work.weights / 1e6)
    everything = gpu_memory(replace(work, zero_stage=0, reference_offload=False), 1) - WORKSPACE - BUCKETS
    return math.ceil(HOST_BASE_MB + HOST_SLACK * (everything / 1e6 + copy))


def decode_seconds(work: Work, batch: float, gpus: int) -> float:
    """Seconds for one more token of `batch` sequences on one GPU (0 GPUs: one process on a CPU)."""
    compute = 2 * work.parameters * batch
    if gpus == 0:
        return compute / (CPU_FLOPS * work.threads)
    read = work.weights + batch * FILL * work.context * KV_BYTES * work.width
    return max(read / BANDWIDTH, compute / FLOPS) * (1 if work.vllm else EAGER)


def step_seconds(work: Work, gpus: int) -> float:
    """Seconds of one training step, its share of saving included; before SAFETY."""
    ranks = max(1, gpus)
    share = work.sequences / ranks
    waves = math.ceil(share / DECODED_AT_ONCE)
    # the longest response decides, so its limit counts and not the mean
    token = decode_seconds(work, share / waves * (FILL if gpus == 0 else 1), gpus)
    rollout = work.rounds * waves * work.response_tokens * token
    flop = (10 if work.checkpointing else 8) * work.parameters * work.sequences * FILL * work.context
    update = flop / (FLOPS * gpus if gpus else CPU_FLOPS * work.threads)
    save = (work.weights + 12 * work.parameters) / DISK / work.save_every  # as if training waited for it
    return rollout + update + save + STEP_SECONDS


def training_minutes(work: Work, gpus: int) -> int:
    """Minutes to ask for a segment."""
    return _rounded(START_SECONDS[gpus > 0] + SAFETY * work.steps * step_seconds(work, gpus))


def sampling_minutes(work: Work, gpu_bytes: float, gpus: int) -> int:
    """Minutes to ask for a sampling job: one process, one GPU."""
    tokens = work.sequences * FILL * work.response_tokens
    if gpus:
        room = 0.9 * gpu_bytes - work.weights - WORKSPACE / 2
        batch = max(1.0, min(DECODED_AT_ONCE, work.sequences, room / (FILL * work.context * KV_BYTES * work.width)))
    else:
        batch = 1.0
    prefill = 2 * work.parameters * FILL * work.prompt_tokens * work.sequences / work.samples_a_prompt
    seconds = tokens / batch * decode_seconds(work, batch, gpus) + prefill / (FLOPS if gpus else CPU_FLOPS)
    longest = work.response_tokens * decode_seconds(work, 1, gpus)  # the last responses decode alone
    return _rounded(START_SECONDS[gpus > 0] + SAFETY * (seconds + longest))


def cores(work: Work, gpus_on_node: int) -> int:
    """CPU cores of a job on one node: what its processes compute with, and what feeds a GPU."""
    return max(work.threads, CORES_PER_GPU) * gpus_on_node if gpus_on_node else work.threads


def _rounded(seconds: float) -> int:
    return MINUTES_STEP * math.ceil(seconds / 60 / MINUTES_STEP)


# -- the jobs of a configuration --------------------------------------------------------------------------------------

UNKNOWN_ROWS = 20_000  # of a data set whose entry does not say how many it has


def rows(entry: Any) -> int:
    """Problems of a data set, from its entry alone; an upper estimate where it does not say."""
    known = getattr(entry, "take", None) or getattr(entry, "size", None)
    if known:
        return int(known)
    share = {"train": 1 - (entry.holdout_fraction or 0), "heldout": entry.holdout_fraction or 1, None: 1.0}[entry.part]
    return math.ceil((entry.expect_rows or UNKNOWN_ROWS) * share)


def training_work(config: Config, instance: str, steps: int) -> Work:
    """A segment of `steps` steps of a run."""
    run = config.entry(instance)[1]
    model, train = config.models[run.model], run.train.resolved()
    rounds = run.refill.rounds if run.refill else 1
    responses, trained = train.rollouts_per_prompt, train.rollouts_trained
    if run.reward in OFFLINE:
        rounds, responses = 0, run.preferences.per_prompt(run.reward, config.sampling_of(run.model).n)
        trained = responses
    vllm = train.rollout_engine == "vllm" and rounds > 0
    return Work(
        parameters=model.parameters,
        sequences=train.prompts_per_step * responses,
        prompt_tokens=train.max_prompt_tokens,
        response_tokens=train.max_new_tokens,
        dtype=train.dtype,
        vllm=vllm,
        steps=steps,
        prompts=train.prompts_per_step,
        samples_a_prompt=responses,
        save_every=config.save_every,
        zero_stage=train.zero_stage,
        checkpointing=train.gradient_checkpointing not in (False, "none"),
        threads=train.threads,
        rounds=rounds,
        trained=trained,
        micro_batch_tokens=train.micro_batch_tokens,
        two_pass=rounds > 0 and (train.iterations > 1 or str(train.advantage) in BATCH_WIDE),
        reference_offload=run.reference_offload,
        engine_sleep=run.engine_sleep and vllm,
        tensor_parallel=run.rollout_tensor_parallel if vllm else 1,
    )


def place(config: Config, instance: str, work: Work, limits: ClusterLimits) -> tuple[int, bool]:
    """GPUs of a segment, by hand or as few as hold it, and whether its reference waits in host memory there."""
    run = config.entry(instance)[1]
    gpus = first(run.gpus, config.models[run.model].gpus_train)
    if gpus is None:
        try:
            gpus = least_gpus(work, limits.gpu_bytes, limits.gpus_per_node)
        except SrtError as error:
            raise SrtError(f"runs: {instance}: {error} (gpus_train of '{run.model}', or gpus of the run)") from None
    return int(gpus), needs_offload(work, int(gpus), limits.gpu_bytes)


def training_job(config: Config, instance: str, steps: int, limits: ClusterLimits) -> JobRequest:
    """What a segment of `steps` steps of a run asks for: the run's own numbers, the model's, else from its size."""
    run = config.entry(instance)[1]
    model, work = config.models[run.model], training_work(config, instance, steps)
    gpus, offload = place(config, instance, work, limits)
    on_node, work = -(-gpus // limits.nodes(gpus)), replace(work, reference_offload=offload)
    request = JobRequest(
        gpus, host_memory_mb(work, on_node), training_minutes(work, gpus), cores(work, on_node),
        engine_percent(work, gpus, limits.gpu_bytes), offload, work.engine_sleep and gpus > 0, work.tensor_parallel,
    )  # fmt: skip
    return _given(limits.capped(request), run.job, model.train_job)


def sampling_job(config: Config, model_id: str, suite: str, limits: ClusterLimits) -> JobRequest:
    """What sampling a checkpoint of a model on a suite asks for."""
    model, sampling = config.models[model_id], config.sampling_of(model_id, suite)
    work = Work(
        parameters=model.parameters,
        sequences=sampling.n * sum(rows(config.datasets[name]) for name in config.members(suite)),
        prompt_tokens=sampling.max_prompt_tokens,
        response_tokens=sampling.max_new_tokens,
        dtype=sampling.dtype,
        vllm=sampling.engine == "vllm",
        samples_a_prompt=sampling.n,
        threads=sampling.threads,
    )
    gpus = model.gpus_sample
    if gpus is None:
        try:
            gpus = least_gpus(work, limits.gpu_bytes)
        except SrtError as error:
            raise SrtError(f"models: {model_id}: {error} (gpus_sample)") from None
    minutes = sampling_minutes(work, limits.gpu_bytes, gpus)
    request = JobRequest(gpus, host_memory_mb(work, gpus), minutes, cores(work, gpus))
    return _given(limits.capped(request), model.sample_job)


def first(*values: Any) -> Any:
    """The first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def _given(request: JobRequest, *sizes: JobSize) -> JobRequest:
    """The request with what the configuration gives by hand; earlier sizes win, and nothing bounds them."""
    fields = ("memory_mb", "minutes", "cores")
    given = {name: first(*(getattr(size, name) for size in sizes)) for name in fields}
    return replace(request, **{name: value for name, value in given.items() if value is not None})
