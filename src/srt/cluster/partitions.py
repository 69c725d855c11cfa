"""The cluster as workflow/profiles/slurm/partitions.yaml describes it: its GPUs, and what its partitions allow.

SLURM's plugin reads the limits from the same file and chooses a job's partition by them; here they bound what jobs ask.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.config.loading import read_yaml


@dataclass(frozen=True)
class Ask:
    """What one job asks for: GPUs over all nodes, the rest on each node."""

    gpus: int
    memory_mb: int
    minutes: int
    cores: int
    engine_percent: int = 30  # of a GPU's memory, for a trainer's vLLM
    reference_offload: bool = False  # a trainer's reference in host memory between its passes
    engine_sleep: bool = False  # a trainer's vLLM gives its memory back between rollouts
    tensor_parallel: int = 1  # GPUs that share one vLLM engine of a trainer


@dataclass(frozen=True)
class Partition:
    """The limits of one partition, a job; `gpus` on one node."""

    minutes: float = math.inf
    memory_mb: float = math.inf
    cores: float = math.inf
    gpus: int = 0


@dataclass(frozen=True)
class Site:
    """A cluster: its GPUs and its partitions. Without partitions nothing is bounded."""

    gpu_bytes: float = 141e9
    gpus_per_node: int = 8
    partitions: tuple[Partition, ...] = ()

    def nodes(self, gpus: int) -> int:
        """Nodes of a job: as few as hold its GPUs."""
        return max(1, -(-gpus // self.gpus_per_node))

    def limits(self, gpus: int) -> Partition:
        """The largest of each limit among the partitions that take a job of `gpus` GPUs."""
        on_node = -(-gpus // self.nodes(gpus))
        fit = [p for p in self.partitions if (p.gpus >= on_node if gpus else p.gpus == 0)]
        fit = fit or list(self.partitions) or [Partition()]
        return Partition(*(max(getattr(p, name) for p in fit) for name in ("minutes", "memory_mb", "cores", "gpus")))

    def bound(self, ask: Ask) -> Ask:
        """The same, within those limits."""
        most = self.limits(ask.gpus)
        return replace(
            ask,
            memory_mb=int(min(ask.memory_mb, most.memory_mb)),
            minutes=int(min(ask.minutes, most.minutes)),
            cores=int(min(ask.cores, most.cores)),
        )

    def again(self, ask: Ask, attempt: int) -> int:
        """Memory in MB of an attempt, the first one is 1: a multiple, within the partition's limit."""
        return max(ask.memory_mb, int(min(ask.memory_mb * attempt, self.limits(ask.gpus).memory_mb)))


def read_site(path: Path) -> Site:
    """The site that a partitions.yaml describes; without the file, H200 nodes of 8 without limits.

    Raises:
        SrtError: a value that is no number or no time.
    """
    if not path.is_file():
        return Site()
    data = read_yaml(path)

    def number(value: Any, key: str, read: Callable[[Any], float] = float) -> float:
        try:
            return read(value)
        except (TypeError, ValueError):
            raise SrtError(f"{path}: {key}: {value!r} is no value for it: correct it") from None

    partitions = []
    for name, found in (data.get("partitions") or {}).items():
        given = {
            field: number(found[key], f"partitions: {name}: {key}", read)
            for field, key, read in (
                ("minutes", "max_runtime", minutes_of), ("memory_mb", "max_mem_mb", float),
                ("cores", "max_threads", float), ("gpus", "max_gpu", int),
            )
            if key in (found or {})
        }  # fmt: skip
        partitions.append(Partition(**given))
    per_node = os.environ.get("SRT_GPUS_PER_NODE") or data.get("gpus_per_node", 8)
    gpu_bytes = 1e9 * number(data.get("gpu_memory_gb", 141), "gpu_memory_gb")
    return Site(gpu_bytes, int(number(per_node, "gpus_per_node (or SRT_GPUS_PER_NODE)", int)), tuple(partitions))


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
