"""What a job requests, from the formulas of `srt.cost` and the configuration: GPUs, memory, time, cores.

Requests change no result. A time is 3 times the estimate with the generous parameters, rounded up to half hours: a 7B
at the paper's batch requests 90 to 110 s per step. The estimates are 60 to 100 s for the authors' configuration and 25
to 30 s for this trainer's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from srt.cluster.partitions import ClusterLimits, JobRequest
from srt.cluster.workloads import sampling_work, training_work
from srt.common.errors import SrtError
from srt.config.models import JobSize
from srt.config.root import Config
from srt.cost.memory import (
    HOST_BASE,
    engine_bytes,
    fixed_engine_bytes,
    host_sampling_bytes,
    host_training_bytes,
    sampling_bytes,
    trainer_bytes,
    training_bytes,
    useful_engine_bytes,
    workspace_bytes,
)
from srt.cost.parameters import GENEROUS
from srt.cost.seconds import sampling_seconds, segment_seconds, step_seconds
from srt.cost.work import SamplingWork, TrainingWork

SAFETY = 3.0  # requested time over estimated time
MINUTES_STEP = 30  # times are rounded up to a multiple, so that a small change of a number changes no request
USABLE = 0.92  # of a GPU's memory: the rest is lost to fragments of the allocator
ROOMY = 0.8  # of a GPU's memory
CORES_PER_GPU = 4
HOST_BASE_MB = round(HOST_BASE / 1e6)  # a job without a GPU, before what it holds
ABOUT_AS_LONG = 1.01  # times the seconds of the fastest way
VLLM_PERCENT = JobRequest.vllm_percent  # where it has no effect


@dataclass(frozen=True)
class Placement:
    """How a training job uses its GPUs' memory.

    Args:
        gpus: over all nodes.
        reference_offload: the reference's weights stay in host memory.
        engine_sleep: vLLM gives its memory back between rollouts.
        cache_bytes: of vLLM's cache on each GPU.
        activation_bytes: memory of each GPU in which layers may keep activations.
    """

    gpus: int
    reference_offload: bool = False
    engine_sleep: bool = False
    cache_bytes: float = math.inf
    activation_bytes: float = 0.0

    def of(self, work: TrainingWork) -> TrainingWork:
        """The work as it is placed."""
        return replace(
            work, reference_offload=self.reference_offload, engine_sleep=self.engine_sleep,
            cache_bytes=self.cache_bytes, activation_bytes=self.activation_bytes,
        )  # fmt: skip


# -- memory ------------------------------------------------------------------------------------------------------------


def fewest_gpus(work: TrainingWork, gpu_bytes: float, per_node: int = 8, most: int = 64) -> int:
    """The smallest number of GPUs whose memory holds this training: 1, 2, 4, … of one node, then whole nodes.

    Raises:
        SrtError: no number does; the sentence names the way out.
    """
    within = [n for n in (2**k for k in range(per_node.bit_length())) if n < per_node]
    counts = [n for n in (*within, *range(per_node, most + 1, per_node)) if n <= max(1, work.prompts)]
    counts = [n for n in counts if n % work.rollout_tensor_parallel == 0]
    if not counts:
        raise SrtError(
            f"rollout_tensor_parallel {work.rollout_tensor_parallel} divides no number of GPUs for {work.prompts} "
            "prompts per step: lower it, or set the number of GPUs by hand"
        )
    for gpus in counts:
        if training_bytes(work, gpus) <= USABLE * gpu_bytes:
            return gpus
    raise _too_large(work, training_bytes(work, counts[-1]), gpu_bytes, f", even on {counts[-1]} of them,",
                     "use a higher zero_stage, shorter responses, or set")  # fmt: skip


def _too_large(work: SamplingWork, need: float, gpu_bytes: float, on: str, way_out: str) -> SrtError:
    return SrtError(
        f"a model of {work.shape.total / 1e9:.3g}e9 parameters needs GPUs of {need / USABLE / 1e9:.0f} GB{on} but "
        f"these have {gpu_bytes / 1e9:.0f} GB: {way_out} the model's number of GPUs by hand"
    )


def place(work: TrainingWork, gpus: int, gpu_bytes: float) -> Placement:
    """Where the reference is and whether vLLM sleeps: as `work` says, and where it leaves that open (None) by time.

    Of what fits, that with the least time per step. Of ways that take about as long, the simplest one that leaves room
    for an error of these estimates, else the one that needs the least memory. If nothing fits a number of GPUs that is
    given by hand, what needs the least memory.
    """
    if gpus == 0:
        return Placement(0, bool(work.reference_offload))
    offloads = (False, True) if work.reference_offload is None else (work.reference_offload,)
    sleeps = (False, True) if work.engine_sleep is None else (work.engine_sleep,)
    ways = []
    for sleep, offload in itertools.product(sleeps if work.vllm else (False,), offloads):
        way = replace(work, reference_offload=offload, engine_sleep=sleep)
        room = room_bytes(way, gpus, gpu_bytes)
        ways.append(replace(way, cache_bytes=cache_bytes(way, gpus, gpu_bytes), activation_bytes=room))
    needs = [training_bytes(way, gpus) for way in ways]
    fitting = [i for i, need in enumerate(needs) if need <= USABLE * gpu_bytes] or [needs.index(min(needs))]
    seconds = {i: step_seconds(ways[i], gpus, GENEROUS).seconds for i in fitting}
    fast = [i for i in fitting if seconds[i] <= ABOUT_AS_LONG * min(seconds.values())]
    way = ways[next((i for i in fast if needs[i] <= ROOMY * gpu_bytes), min(fast, key=lambda i: needs[i]))]
    return Placement(gpus, bool(way.reference_offload), bool(way.engine_sleep), way.cache_bytes, way.activation_bytes)


def vllm_percent(work: TrainingWork, gpus: int, gpu_bytes: float) -> int:
    """vLLM's share of a GPU's memory in percent: what the trainer leaves, as far as it is of use; at least 10."""
    if gpus == 0 or not work.vllm:
        return VLLM_PERCENT
    trainer = trainer_bytes(work, gpus)
    taken = trainer.held + (trainer.sync if work.engine_sleep else max(trainer.update, trainer.sync))
    left, useful = USABLE * gpu_bytes - taken, useful_engine_bytes(work, gpus)
    return max(10, min(math.floor(100 * left / gpu_bytes), math.ceil(100 * useful / gpu_bytes)))


def cache_bytes(work: TrainingWork, gpus: int, gpu_bytes: float) -> float:
    """vLLM's cache within its share; unlimited for the transformers engine."""
    if gpus == 0 or not work.vllm:
        return math.inf
    return max(0.0, vllm_percent(work, gpus, gpu_bytes) / 100 * gpu_bytes - fixed_engine_bytes(work))


def room_bytes(work: TrainingWork, gpus: int, gpu_bytes: float) -> float:
    """Memory of each GPU that an update has for activations, beside the engine's if that does not sleep, in whole MB.

    At least what a group at its limits keeps with `gradient_checkpointing: full`, if the work fits. So shorter groups,
    the usual ones, leave layers room to keep more.
    """
    if gpus == 0 or work.checkpointing != "full":
        return 0.0
    if work.vllm:
        engine = 0.0 if work.engine_sleep else vllm_percent(work, gpus, gpu_bytes) / 100 * gpu_bytes
    else:
        engine = engine_bytes(work, gpus)
    left = USABLE * gpu_bytes - trainer_bytes(work, gpus).held - engine - workspace_bytes(work, gpus)
    return max(0.0, math.floor(left / 1e6) * 1e6)


# -- time and cores ----------------------------------------------------------------------------------------------------


def training_minutes(work: TrainingWork, gpus: int) -> int:
    """Minutes to request for a segment; as if training waited for its states, since a shared disk may be slow."""
    return _minutes(segment_seconds(replace(work, states="waiting"), gpus, GENEROUS))


def sampling_minutes(work: SamplingWork, gpus: int, gpu_bytes: float) -> int:
    """Minutes to request for a sampling job."""
    return _minutes(sampling_seconds(work, gpus, gpu_bytes, GENEROUS))


def _minutes(estimated_seconds: float) -> int:
    return MINUTES_STEP * math.ceil(SAFETY * estimated_seconds / 60 / MINUTES_STEP)


def cores(work: SamplingWork, gpus_on_node: int) -> int:
    """CPU cores of a job on one node: what its processes compute with, and what feeds a GPU."""
    return max(work.threads, CORES_PER_GPU) * gpus_on_node if gpus_on_node else work.threads


# -- the jobs of a configuration ---------------------------------------------------------------------------------------


def place_training(config: Config, instance: str, work: TrainingWork, limits: ClusterLimits) -> Placement:
    """A run's jobs on the run's number of GPUs, the model's, else as few as hold the work."""
    run = config.entry(instance).run
    gpus = first_given(run.gpus, config.models[run.model].gpus_train)
    if gpus is None:
        try:
            gpus = fewest_gpus(work, limits.gpu_bytes, limits.gpus_per_node)
        except SrtError as error:
            raise SrtError(f"runs: {instance}: {error} (gpus_train of '{run.model}', or gpus of the run)") from None
    return place(work, gpus, limits.gpu_bytes)


def place_sampling(config: Config, model_id: str, work: SamplingWork, limits: ClusterLimits) -> int:
    """GPUs of a model's sampling jobs: the model's number, else 1.

    Raises:
        SrtError: the model does not fit on one.
    """
    gpus = config.models[model_id].gpus_sample
    if gpus is not None:
        return gpus
    if (need := sampling_bytes(work)) > USABLE * limits.gpu_bytes:
        error = _too_large(work, need, limits.gpu_bytes, "", "set")
        raise SrtError(f"models: {model_id}: {error} (gpus_sample)")
    return 1


def training_job(config: Config, instance: str, steps: int, limits: ClusterLimits) -> JobRequest:
    """What a segment of `steps` steps of a run requests."""
    run = config.entry(instance).run
    work = training_work(config, instance, steps)
    placement = place_training(config, instance, work, limits)
    gpus, on_node = placement.gpus, -(-placement.gpus // limits.nodes(placement.gpus))
    work = placement.of(work)
    request = JobRequest(
        gpus=gpus,
        memory_mb=_megabytes(host_training_bytes(work, on_node)),
        minutes=training_minutes(work, gpus),
        cores=cores(work, on_node),
        vllm_percent=vllm_percent(work, gpus, limits.gpu_bytes),
        reference_offload=placement.reference_offload,
        engine_sleep=placement.engine_sleep,
        rollout_tensor_parallel=work.rollout_tensor_parallel,
        activation_mb=round(placement.activation_bytes / 1e6),
    )
    return _with_given_sizes(limits.capped(request), run.job, config.models[run.model].train_job)


def sampling_job(config: Config, model_id: str, suite: str, limits: ClusterLimits) -> JobRequest:
    """What sampling a checkpoint of a model on a suite requests."""
    work = sampling_work(config, model_id, suite)
    gpus = place_sampling(config, model_id, work, limits)
    request = JobRequest(
        gpus=gpus,
        memory_mb=_megabytes(host_sampling_bytes(work, gpus)),
        minutes=sampling_minutes(work, gpus, limits.gpu_bytes),
        cores=cores(work, gpus),
    )
    return _with_given_sizes(limits.capped(request), config.models[model_id].sample_job)


def first_given(*values: Any) -> Any:
    """The first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def _with_given_sizes(request: JobRequest, *sizes: JobSize) -> JobRequest:
    """The request with the configuration's sizes; earlier ones take precedence, and no partition limits them."""
    fields = ("memory_mb", "minutes", "cores")
    given = {name: first_given(*(getattr(size, name) for size in sizes)) for name in fields}
    return replace(request, **{name: value for name, value in given.items() if value is not None})


def _megabytes(size: float) -> int:
    return math.ceil(size / 1e6)
