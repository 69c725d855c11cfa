"""The processes of a training job: start the group, gather values over all ranks, wait for one another."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from srt.cluster.launch import free_port


@dataclass(frozen=True)
class World:
    """One process of a training job, and the device that it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0


def init_world() -> World:
    """Start torch.distributed under DeepSpeed: from torchrun's variables, or as one process without them.

    A second call in one process uses the existing group: DeepSpeed cannot start another one.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    defaults = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1"}
    for key, value in defaults.items():
        os.environ.setdefault(key, str(value))
    if size == 1:  # any free port, so that two runs on one machine do not collide
        os.environ["MASTER_PORT"] = str(free_port())
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
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)
    return World(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"))


def barrier() -> None:
    """Wait until all ranks are here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather(values: list[Any], world: World) -> list[Any]:
    """The concatenated lists of all ranks, in rank order, on every rank."""
    if world.size == 1:
        return values
    parts: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(parts, values)
    return [v for part in parts for v in part]


def shutdown() -> None:
    """Destroy the process group, so that the process ends without a warning."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
