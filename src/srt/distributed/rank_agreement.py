"""What all ranks of a segment decide as one: who trains it, and the state that they go on from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from srt.common.errors import Interrupted, SrtError
from srt.common.progress import log
from srt.distributed.deepspeed_engine import World, gather
from srt.distributed.state import InUse, check_state, exclusive, states

POLL_SECONDS = 0.5


@contextlib.contextmanager
def hold(folder: Path, world: World, patience: float, stopping: Sequence[int]) -> Iterator[None]:
    """`exclusive` for all ranks: rank 0 holds the lock, and while it waits for it the others wait with it.

    Args:
        patience: seconds to wait for another process before this one is refused.
        stopping: signals that this rank was sent; one on any rank ends the wait on all.
    """
    end, told = time.monotonic() + patience, False
    with contextlib.ExitStack() as held:
        while True:
            refusal: InUse | None = None
            if world.main:
                try:
                    held.enter_context(exclusive(folder))
                except InUse as error:
                    refusal = error
            late = time.monotonic() >= end
            answers = gather([(refusal, late, bool(stopping))], world)
            refusal, late, _ = answers[0]
            if refusal is None:
                break
            if late:
                raise refusal
            if any(asked for *_, asked in answers):
                raise Interrupted(f"SIGTERM while waiting for {refusal.holder}: the same command waits again")
            if world.main and not told:
                log(f"waiting for {refusal.holder}, which works on {folder}")
            told = True
            time.sleep(POLL_SECONDS)
        yield


def find_state(
    folder: Path, spec: dict[str, Any], world: World, inputs: str | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable state of an interrupted segment, or None. Unusable ones are reported and passed over.

    Each rank hashes its share of a state's files; one that any rank refuses is refused by all.
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
