"""The GPUs and the partitions of a cluster, from workflow/profiles/slurm/partitions.yaml.

SLURM's plugin reads the same file to choose the partition of each job. Here its limits bound what a job requests.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.config.loading import read_yaml

PARTITIONS_FILE = Path("workflow/profiles/slurm/partitions.yaml")  # from the repository root


@dataclass(frozen=True)
class JobRequest:
    """What one job requests: GPUs over all nodes; memory, time and cores on each node.

    The other fields are options of a training job's run, set by how much memory its GPUs have: vLLM's share of a GPU's
    memory in percent, whether the reference's weights stay in host memory between its passes, whether vLLM gives its
    GPU memory back between rollouts, and how many GPUs share one vLLM engine.
    """

    gpus: int
    memory_mb: int
    minutes: int
    cores: int
    vllm_percent: int = 30
    reference_offload: bool = False
    engine_sleep: bool = False
    rollout_tensor_parallel: int = 1


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


def read_cluster_limits(path: Path) -> ClusterLimits:
    """The limits in a partitions.yaml; without the file, nodes of 8 H200 and no limits.

    Raises:
        SrtError: a value is not a number or a time.
    """
    if not path.is_file():
        return ClusterLimits()
    data = read_yaml(path)

    def number(value: Any, key: str, read: Callable[[Any], float] = float) -> float:
        try:
            return read(value)
        except (TypeError, ValueError):
            raise SrtError(f"{path}: {key}: {value!r} is not a valid value: correct it") from None

    partitions = {}
    for name, found in (data.get("partitions") or {}).items():
        given = {
            limit: number(found[key], f"partitions: {name}: {key}", read)
            for limit, key, read in (
                ("minutes", "max_runtime", minutes_of), ("memory_mb", "max_mem_mb", float),
                ("cores", "max_threads", float), ("gpus", "max_gpu", int),
            )
            if key in (found or {})
        }  # fmt: skip
        partitions[name] = Partition(**given)
    per_node = os.environ.get("SRT_GPUS_PER_NODE") or data.get("gpus_per_node", 8)
    gpu_bytes = 1e9 * number(data.get("gpu_memory_gb", 141), "gpu_memory_gb")
    return ClusterLimits(gpu_bytes, int(number(per_node, "gpus_per_node (or SRT_GPUS_PER_NODE)", int)), partitions)


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
