"""What the formulas assume of hardware and runs, as two sets: CENTRAL for the plan, GENEROUS for what jobs request."""

from __future__ import annotations

from dataclasses import dataclass, replace

from srt.config.plan import PlanConfig


@dataclass(frozen=True)
class Parameters:
    """Assumptions in bytes, seconds, FLOP and tokens. Those that `PlanConfig` describes have its names.

    cpu_step_seconds: `step_seconds` of a step without a GPU. sleep_seconds: per step of an engine that sleeps, to free
    and to take its memory. all_reduce_seconds: of an all-reduce of few bytes between GPUs that share an engine, two in
    each layer. decode_slowdown: a decoded token's time over the time with CUDA graphs. prompt_share, response_share:
    mean tokens over the limit that the configuration sets.
    """

    peak_flops: float
    efficiency: float
    bandwidth: float
    launch_seconds: float
    step_seconds: float
    start_seconds: float
    cpu_seconds: float
    cpu_flops: float
    disk_rate: float
    disk_limit: float
    refill_kept: float
    host_copy_rate: float
    host_link_rate: float
    gpu_link_rate: float
    sequences_at_once: int
    prompt_share: float
    response_share: float
    cpu_step_seconds: float = 0.0
    sleep_seconds: float = 1.0
    all_reduce_seconds: float = 2e-5
    decode_slowdown: float = 1.0

    @property
    def flops(self) -> float:
        """FLOP/s of a GPU in updates and prefills."""
        return self.peak_flops * self.efficiency


def central(plan: PlanConfig) -> Parameters:
    """The set of a configuration's section `plan`."""
    return Parameters(
        peak_flops=plan.peak_flops,
        efficiency=plan.efficiency,
        bandwidth=plan.bandwidth,
        launch_seconds=plan.launch_seconds,
        step_seconds=plan.step_seconds,
        start_seconds=plan.start_seconds,
        cpu_seconds=plan.cpu_seconds,
        cpu_flops=plan.cpu_flops,
        disk_rate=plan.disk_rate,
        disk_limit=plan.disk_limit,
        refill_kept=plan.refill_kept,
        host_copy_rate=plan.host_copy_rate,
        host_link_rate=plan.host_link_rate,
        gpu_link_rate=plan.gpu_link_rate,
        sequences_at_once=plan.sequences_at_once,
        prompt_share=plan.prompt_tokens / 1024,
        response_share=plan.response_tokens / 3072,
    )


CENTRAL = central(PlanConfig())
# The section `plan` of a configuration has no effect on this set. Means are a quarter of the limits, `refill` draws all
# the rounds that it may, and starts take longer; `srt.cluster.resources` multiplies the estimated time by 3.
GENEROUS = replace(
    CENTRAL, prompt_share=0.25, response_share=0.25, refill_kept=0.0, start_seconds=200.0, cpu_seconds=40.0,
    cpu_step_seconds=2.0,
)  # fmt: skip
