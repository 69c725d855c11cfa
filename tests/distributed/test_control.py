"""Ranks wait for one that works alone, longer than a collective of tensors may take; they copy a state together.

As a program this file is a rank. Its default group, of tensors, has a limit of TENSOR_SECONDS.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from srt.distributed import saving
from srt.distributed.saving import copy_state
from srt.distributed.world import barrier, gather, init_world, shutdown
from support.training import torchrun, two_ranks

TENSOR_SECONDS, ALONE_SECONDS = 2, 6
MEET = timedelta(minutes=5)
FILES = ("engine/a", "engine/b", "c", "d", "e")


def worker(folder: Path, place: str) -> None:
    """Rank 0 works alone while the other waits in `place`: tensors, control, copy; or it dies."""
    # the ranks meet first: on a busy machine one may start seconds after the other
    store, rank, size = next(torch.distributed.rendezvous("env://", timeout=MEET))
    store.set(f"here-{rank}", "")
    store.wait([f"here-{each}" for each in range(size)], MEET)
    limit = timedelta(seconds=TENSOR_SECONDS)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    world = init_world()
    if place == "tensors":
        time.sleep(ALONE_SECONDS if world.main else 0)
    elif place == "control":
        for wait in (barrier, lambda world: gather([world.rank], world)):
            time.sleep(ALONE_SECONDS if world.main else 0)
            wait(world)
    elif place == "death":
        os._exit(7) if world.main else barrier(world)
    else:
        slow_copies(folder, world.rank)
        copy_state(folder / "state", folder / "copy", world)
    total = torch.full((1,), world.rank + 1)
    torch.distributed.all_reduce(total)
    assert total.item() == 3
    shutdown()


def slow_copies(folder: Path, rank: int) -> None:
    """Let this rank's copies be noted, on a file system without hard links; those of rank 0 take their time."""

    def refuse(source: Path, target: Path) -> None:
        time.sleep(0 if rank else ALONE_SECONDS / 3)
        with open(folder / f"rank-{rank}", "a", encoding="utf-8") as noted:
            noted.write(f"{source.name}\n")
        raise PermissionError

    saving.os.link = refuse


@pytest.mark.slow
@pytest.mark.parametrize(("place", "fits"), [("tensors", False), ("control", True)])
def test_ranks_wait_for_one_that_works_alone(tmp_path, place, fits):
    """The limit of tensors would end them, as it does in the first row."""
    done = two_ranks(__file__, str(tmp_path), place)
    assert (done.returncode == 0) == fits, done.stderr[-4000:]
    assert ("imed out" in done.stderr) != fits


@pytest.mark.slow
def test_nobody_waits_for_a_dead_rank(tmp_path):
    """Not even the limit of control traffic, which is longer than a test may take."""
    done = torchrun(__file__, str(tmp_path), "death", timeout=300)
    assert done.returncode == 7, done.stderr[-4000:]


@pytest.mark.slow
def test_ranks_copy_a_state_together(tmp_path):
    for name in FILES:
        (tmp_path / "state" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "state" / name).write_text(name)
    done = two_ranks(__file__, str(tmp_path), "copy")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {n: (tmp_path / "copy" / n).read_text() for n in FILES} == {n: n for n in FILES}
    shares = [(tmp_path / f"rank-{rank}").read_text().split() for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 2] and len({n for share in shares for n in share}) == 5


if __name__ == "__main__" and "RANK" in os.environ:
    worker(Path(sys.argv[1]), sys.argv[2])
