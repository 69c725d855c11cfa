"""What `snakemake plan` assumes until it is measured: token counts, rates of the hardware, sizes (docs/cost.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from srt.config.base import Strict


class PlanConfig(Strict):
    """Assumptions of the plan. They have no effect on results."""

    partitions: list[Annotated[int, Field(gt=0, le=10_000)]] = Field(
        [1, 2, 4], min_length=1, description="Numbers of partitions for which the plan shows a wall time."
    )
    gpus_per_partition: int = Field(8, gt=0, le=10_000, description="GPUs per partition.")
    prompt_tokens: float = Field(
        180.0, gt=0, description="Mean tokens of a prompt where 1,024 are allowed; scaled with the limit elsewhere."
    )
    response_tokens: float = Field(
        670.0,
        gt=0,
        description="Mean tokens of a response, cut ones included, where 3,072 are allowed; scaled with the limit "
        "elsewhere.",
    )
    measured: str | None = Field(
        None,
        min_length=1,
        description="Report of `make gpu-check` (JSON): the rates that it has measured replace the values below; null "
        "means none (docs/gpu.md).",
    )
    peak_flops: float = Field(989e12, gt=0, description="Dense bfloat16 FLOP/s of a GPU (H200 data sheet).")
    efficiency: float = Field(0.45, gt=0, le=1, description="Share of `peak_flops` that updates and prefills reach.")
    bandwidth: float = Field(4.3e12, gt=0, description="Bytes per second of a GPU's memory (measured on an H200).")
    launch_seconds: float = Field(
        1.0e-3, ge=0, description="Seconds per decoded token beside memory traffic: kernel launches, sampling."
    )
    step_seconds: float = Field(
        2.0, ge=0, description="Seconds per training step for votes, weight sync, optimizer and logs."
    )
    start_seconds: float = Field(
        150.0, ge=0, description="Seconds per GPU job to start: two Snakemake processes, imports, weights, CUDA graphs."
    )
    cpu_seconds: float = Field(
        5.0, ge=0, description="Seconds per job without a GPU: start, and work that hardly depends on size."
    )
    cpu_flops: float = Field(1e10, gt=0, description="FLOP/s of a CPU thread, for models that run without a GPU.")
    disk_rate: float = Field(1e9, gt=0, description="Bytes per second that a process reads or writes and hashes.")
    disk_limit: float = Field(
        4e9, gt=0, description="Bytes per second that all processes of a job read or write together."
    )
    refill_kept: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of prompts that runs with `refill` keep, by either rule (our guess: none is published); "
        "a step samples as many rounds as fill its batch.",
    )
    host_copy_rate: float = Field(
        4e9, gt=0, description="Bytes per second and GPU at which a state is copied to host memory."
    )
    host_link_rate: float = Field(5e10, gt=0, description="Bytes per second from pinned host memory to a GPU.")
    gpu_link_rate: float = Field(3e11, gt=0, description="Bytes per second that a GPU sends in a collective (NVLink).")
    sequences_at_once: int = Field(512, gt=0, description="Sequences that a sampling job decodes together.")
    lengths: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Mean tokens of prompt and response by data set; they replace `prompt_tokens` and "
        "`response_tokens`.",
    )
    rows: dict[str, int] = Field(
        default_factory=dict,
        description="Number of problems by data set, where the entry does not give it; ignored once the "
        "data set's table is made.",
    )
    unknown_rows: int = Field(1000, gt=0, description="Number of problems of a data set where nothing else gives it.")
    apart: dict[str, dict[str, Annotated[int, Field(ge=0)]]] = Field(
        default_factory=dict,
        description="Parts whose cost the plan shows apart, by a name: their runs, each with the step after which its "
        "jobs belong to the part (0: the whole run).",
    )
    paper_gpu_hours: dict[str, float] = Field(
        default_factory=dict,
        description="GPU-hours that the paper states for its final results, by version; shown beside ours.",
    )
    target_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="Target for the total with one seed, which the plan compares with it; null means no target.",
    )
