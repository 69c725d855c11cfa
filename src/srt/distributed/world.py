"""The processes of a training job: start the groups, gather values over all ranks, wait for one another.

There are two kinds of traffic. Collectives of tensors (DeepSpeed, in the default group) meet within milliseconds, so
that one which does not end in 10 minutes is a fault. `gather` and `barrier` control the job: one rank may write, copy
or load for long while the others wait there. They have a gloo group of their own, whose limit is CONTROL_LIMIT, also
where tensors go through NCCL: its watchdog counts only its own collectives.

So before a collective of tensors that follows unequal work, the ranks meet at a `barrier`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from srt.common.network import LOOPBACK, use_interface_of

# To copy a state of 200 GB at 10 MB/s takes 6 hours. The limit does not delay the end of a job that lost a rank: its
# connections break and torchrun ends the others, within seconds.
CONTROL_LIMIT = timedelta(hours=24)


@dataclass(frozen=True)
class World:
    """One process of a training job, the device that it computes on, and the group of `gather` and `barrier`."""

    rank: int
    size: int
    device: torch.device
    control: torch.distributed.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0


def init_world() -> World:
    """Start torch.distributed under DeepSpeed: from torchrun's variables, or as one process without them.

    A second call in one process uses the existing default group: DeepSpeed cannot start another one.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    for key, value in {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local}.items():
        os.environ.setdefault(key, str(value))
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not cuda:
        # DeepSpeed would compile a shared-memory collective at first use (a minute, and a C++ compiler); gloo suffices.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if cuda:
        torch.cuda.set_device(local)
    backend = "nccl" if cuda else "gloo"
    if size == 1:
        use_interface_of(LOOPBACK)
        if not torch.distributed.is_initialized():  # a store without a port
            torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    control = torch.distributed.new_group(backend="gloo", timeout=CONTROL_LIMIT) if size > 1 else None
    return World(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"), control)


def barrier(world: World) -> None:
    """Wait until all ranks are here."""
    if world.size > 1:
        torch.distributed.barrier(group=world.control)


def gather(values: list[Any], world: World) -> list[Any]:
    """The concatenated lists of all ranks, in rank order, on every rank."""
    if world.size == 1:
        return values
    parts: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(parts, values, group=world.control)
    return [v for part in parts for v in part]


def shutdown() -> None:
    """Destroy the process group, so that the process ends without a warning."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
