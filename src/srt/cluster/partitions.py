"""The GPUs and the partitions of a cluster, from workflow/profiles/slurm/partitions.yaml.

SLURM's plugin reads the same file to choose the partition of each job. Here its limits bound what a job requests.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from srt.common.errors import SrtError
from srt.config.base import LARGEST, Strict
from srt.config.explain import first_problem
from srt.config.loading import read_yaml

PARTITIONS_FILE = Path("workflow/profiles/slurm/partitions.yaml")  # from the repository root


@dataclass(frozen=True)
class JobRequest:
    """What one job requests: GPUs over all nodes; memory, time and cores on each node.

    The other fields are options of a training job's run, set by how much memory its GPUs have: vLLM's share of a GPU's
    memory in percent, whether the reference's weights stay in host memory between its passes, whether vLLM gives its
    GPU memory back between rollouts, how many GPUs share one vLLM engine, and the memory for activations in MB.
    """

    gpus: int
    memory_mb: int
    minutes: int
    cores: int
    vllm_percent: int = 30
    reference_offload: bool = False
    engine_sleep: bool = False
    rollout_tensor_parallel: int = 1
    activation_mb: int = 0


@dataclass(frozen=True)
class Partition:
    """The limits of one partition for one job; `gpus`, memory and cores are those of one node."""

    minutes: float = math.inf
    memory_mb: float = math.inf
    cores: float = math.inf
    gpus: int = 0


@dataclass(frozen=True)
class ClusterLimits:
    """Memory of a GPU in bytes, GPUs per node, and partitions by name. Without partitions nothing is limited."""

    gpu_bytes: float = 141e9
    gpus_per_node: int = 8
    partitions: dict[str, Partition] = field(default_factory=dict)

    def nodes(self, gpus: int) -> int:
        """Nodes of a job: as few as hold its GPUs."""
        return max(1, -(-gpus // self.gpus_per_node))

    def limits_for(self, gpus: int) -> Partition:
        """The largest of each limit among the partitions that take a job of `gpus` GPUs."""
        on_node = -(-gpus // self.nodes(gpus))
        fit = [p for p in self.partitions.values() if (p.gpus >= on_node if gpus else p.gpus == 0)]
        fit = fit or list(self.partitions.values()) or [Partition()]
        return Partition(*(max(getattr(p, name) for p in fit) for name in ("minutes", "memory_mb", "cores", "gpus")))

    def capped(self, request: JobRequest) -> JobRequest:
        """The request, cut to those limits."""
        most = self.limits_for(request.gpus)
        return replace(
            request,
            memory_mb=int(min(request.memory_mb, most.memory_mb)),
            minutes=int(min(request.minutes, most.minutes)),
            cores=int(min(request.cores, most.cores)),
        )

    def memory_mb(self, request: JobRequest, attempt: int) -> int:
        """Memory in MB of attempt 1, 2, …: `attempt` times the request, at most the partition's limit."""
        limit = self.limits_for(request.gpus).memory_mb
        return max(request.memory_mb, int(min(request.memory_mb * attempt, limit)))


class PartitionEntry(Strict):
    """The keys of a partition that SLURM's plugin (2.8) knows; it reads the file itself, without these checks."""

    max_runtime: int | float | str | None = Field(None, description="A time such as 90 (minutes), 3d or '12:30:00'.")
    max_mem_mb: float | None = Field(None, gt=0)
    max_mem_mb_per_cpu: float | None = Field(None, gt=0)
    max_threads: float | None = Field(None, gt=0)
    max_cpus_per_task: float | None = Field(None, gt=0)
    max_cpus_per_gpu: float | None = Field(None, gt=0)
    max_nodes: float | None = Field(None, gt=0)
    max_tasks: float | None = Field(None, gt=0)
    max_tasks_per_node: float | None = Field(None, gt=0)
    max_mpi_tasks: float | None = Field(None, gt=0)
    max_gpu: int | None = Field(None, gt=0)
    available_gpu_models: list[str] | None = None
    available_constraints: list[str] | None = None
    supports_mpi: bool = True
    slurm_cluster: str | None = None
    cluster: str | None = None
    clusters: str | None = None

    @field_validator("max_runtime")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        with contextlib.suppress(ValueError):
            if value is None or 0 < minutes_of(value) < math.inf:
                return value
        raise ValueError(f"{value!r} is not a time: write minutes, or a time such as 3d, 1d12h or '12:30:00'")

    def limits(self) -> Partition:
        """What bounds the requests of jobs."""
        return Partition(
            minutes=math.inf if self.max_runtime is None else minutes_of(self.max_runtime),
            memory_mb=self.max_mem_mb or math.inf,
            cores=self.max_threads or math.inf,
            gpus=self.max_gpu or 0,
        )


class PartitionsFile(Strict):
    """partitions.yaml."""

    gpus_per_node: int = Field(8, gt=0)
    gpu_memory_gb: float = Field(141, gt=0)
    partitions: dict[str, PartitionEntry] = Field(default_factory=dict)


def read_cluster_limits(path: Path) -> ClusterLimits:
    """The limits in a partitions.yaml; without the file, nodes of 8 H200 and no limits.

    Raises:
        SrtError: a key is unknown, or a value is not possible.
    """
    if not path.is_file():
        return ClusterLimits()
    data = read_yaml(path)
    try:
        found = PartitionsFile.model_validate(data)
    except ValidationError as error:
        raise SrtError(f"{path}: {first_problem(PartitionsFile, error)}") from None
    per_node = os.environ.get("SRT_GPUS_PER_NODE") or str(found.gpus_per_node)
    if not per_node.isdecimal() or not 0 < int(per_node) <= LARGEST:
        raise SrtError(f"SRT_GPUS_PER_NODE: must be a whole number above 0, not {per_node!r}: correct or unset it")
    partitions = {name: entry.limits() for name, entry in found.partitions.items()}
    return ClusterLimits(1e9 * found.gpu_memory_gb, int(per_node), partitions)


def minutes_of(value: Any) -> float:
    """Minutes of a partition's time limit, as the SLURM plugin reads it: 90, "3d", "1d12h", "2-12:30", "12:30:00".

    >>> minutes_of("1d12h"), minutes_of("2-12:30")
    (2160.0, 3630.0)
    """
    text = str(value).strip().lower()
    with contextlib.suppress(ValueError):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?\s*[dhms]\s*)+", text):
        unit = {"d": 1440.0, "h": 60.0, "m": 1.0, "s": 1 / 60}
        return sum(float(n) * unit[u] for n, u in re.findall(r"([\d.]+)\s*([dhms])", text))
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise ValueError(value)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 1440.0 * days + 60.0 * hours + minutes + seconds / 60
