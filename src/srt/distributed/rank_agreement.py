"""What all ranks of a segment decide together: who holds its lock, and the state that they resume from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from srt.common.errors import Interrupted, SrtError
from srt.common.lock import FolderInUse, folder_lock
from srt.common.progress import log
from srt.distributed.state import check_state, states
from srt.distributed.world import World, gather
from srt.models.checkpoint import check_model

POLL_SECONDS = 0.5
TELL_SECONDS = 60.0  # between two lines in the log while a process waits


@contextlib.contextmanager
def segment_lock(folder: Path, world: World, patience: float, stopping: Sequence[int]) -> Iterator[None]:
    """`folder_lock` for all ranks: rank 0 holds the lock, and all ranks wait until it has it.

    Args:
        patience: seconds to wait for another process before this one is refused.
        stopping: the signals that this rank has received; one on any rank ends the wait on all ranks.

    Raises:
        FolderInUse: another process still holds the lock.
        Interrupted: a rank received a signal while waiting.
    """
    began, told = time.monotonic(), float("-inf")  # `told`: seconds after `began` of the last line in the log
    with contextlib.ExitStack() as stack:
        while True:
            refusal: FolderInUse | None = None
            if world.main:
                try:
                    stack.enter_context(folder_lock(folder))
                except FolderInUse as error:
                    refusal = error
            waited = time.monotonic() - began
            late = waited >= patience
            replies = gather([(refusal, late, bool(stopping))], world)
            refusal, late, _ = replies[0]
            if refusal is None:
                break
            if late:
                raise refusal
            if any(asked for *_, asked in replies):
                raise Interrupted(f"SIGTERM while waiting for {refusal.holder}: run the same command to wait again")
            if world.main and waited - told >= TELL_SECONDS:
                log(f"waiting for {refusal.holder}, which works on {folder}: {waited / 60:.0f} min so far")
                told = waited
            time.sleep(POLL_SECONDS)
        yield


def find_state(
    folder: Path, spec: dict[str, Any], world: World, inputs: str | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable state of an interrupted segment and its progress, or None; unusable states are reported.

    Each rank hashes its share of a state's files; a state that any rank refuses is refused by all ranks.
    """
    names = gather([[path.name for path in reversed(states(folder))] if world.main else []], world)[0]
    for path in (folder / name for name in names):
        progress, refusal = None, None
        try:
            progress = check_state(path, spec, world.size, world.rank)
            if progress.get("inputs") != inputs:
                refusal = f"{path} was made from another base model, data set or earlier state"
        except SrtError as error:
            refusal = str(error)
        refusals = [each for each in gather([refusal], world) if each is not None]
        if progress is not None and not refusals:
            return path, progress
        if world.main:
            log(f"not resuming: {refusals[0]}")
    return None


def check_base(folder: Path, world: World) -> None:
    """`check_model` by all ranks together: each hashes its share of the files, once per job."""
    refused_together(lambda: check_model(folder, world.rank, world.size), world)


def refused_together(check: Callable[[], object], world: World, main_only: bool = False) -> None:
    """Call `check` on all ranks, or on rank 0 alone with `main_only`; all ranks call this function.

    Raises:
        SrtError: on all ranks, what the first of them that refuses found.
    """
    refusal: SrtError | None = None
    if world.main or not main_only:
        try:
            check()
        except SrtError as error:
            refusal = error
    for each in gather([refusal], world):
        if each is not None:
            raise each
