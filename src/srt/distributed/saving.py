"""States are saved in the background: each is copied to host memory, then written to disk while training continues.

    start   every rank copies its part of the state (`DeepSpeedEngine.snapshot`) and hands the copy to its thread
    thread  writes the rank's files into `.state-{step}.tmp`, flushes them to the disk, hashes them
    settle  at a step boundary, once all ranks' threads are done: rank 0 adds progress and manifest, then renames

Until the rename the previous state is the newest one, so a kill at any moment leaves a complete state. For a model with
fewer than SMALL parameters training waits for the rename: that takes little time, and a kill then repeats no step. At
most one save is in flight. `settle` raises a thread's error, on all ranks. `copy_state` copies a state that is
on the disk.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.atomic_files import atomic_dir, errors_named_after, fsync
from srt.common.io import sha256_file
from srt.distributed.state import commit_state, state_spec
from srt.distributed.world import World, barrier, gather

SMALL = 50_000_000  # parameters; the state of such a model, up to 0.8 GB, is written within two seconds

Snapshot = Callable[[Path], Callable[[], list[Path]]]  # copies at once; the function that it returns writes the copy


@dataclass(frozen=True)
class _Save:
    """One save in flight; `written` becomes the checksum of each of this rank's files."""

    final: Path
    temporary: Path
    progress: dict[str, Any]
    written: Future[dict[Path, str]]


class Saver:
    """Saves the states of a segment under `folder`; every rank makes the same calls.

    Args:
        inputs: fingerprint of the segment's inputs; `find_state` (srt.distributed.rank_agreement) refuses states with
            another one.
        parameters: number of the model's parameters, compared with SMALL.
    """

    def __init__(
        self, folder: Path, spec: dict[str, Any], world: World, inputs: str | None, snapshot: Snapshot, parameters: int
    ) -> None:
        self.folder, self.world, self.snapshot, self.parameters = folder, world, snapshot, parameters
        self.origin = {"spec": state_spec(spec), "inputs": inputs, "world_size": world.size}
        self._save: _Save | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")

    def start(
        self, step: int, metrics: list[dict[str, Any]], more: Mapping[str, Any] | None = None, wait: bool = False
    ) -> Path:
        """Copy the state of `step` and start to write it as `folder/state-{step}`, which `settle` completes.

        Waits first for a save that is still in flight, and with `wait` for this one too. `more` is added to
        progress.json.
        """
        self.settle(wait=True)
        final, temporary = self.folder / f"state-{step}", self.folder / f".state-{step}.tmp"
        if self.world.main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        barrier(self.world)
        try:
            with errors_named_after(final, temporary):
                write = self.snapshot(temporary)
        except BaseException:
            self._drop(temporary)
            raise
        progress = {"step": step, **self.origin, "metrics": list(metrics), **copy.deepcopy(dict(more or {}))}
        self._save = _Save(final, temporary, progress, self._thread.submit(_written, write, final, temporary))
        self.settle(wait or self.parameters < SMALL)
        return final

    def settle(self, wait: bool = False) -> None:
        """Complete the save in flight if all ranks have written their part; with `wait`, wait until they have.

        Raises:
            OSError: a rank could not write. The error names the state; the files already written are removed.
        """
        save = self._save
        if save is None:
            return
        if wait:
            futures.wait([save.written])
        parts = gather([_report(save.written)], self.world)
        if None in parts:
            return
        self._save = None
        failed = [part for part in parts if isinstance(part, BaseException)]
        if failed:
            self._drop(save.temporary)
            raise save.written.exception() or failed[0]
        if self.world.main:
            sums = {path: digest for part in parts for path, digest in part.items()}
            commit_state(save.final, save.temporary, save.progress, sums)
        barrier(self.world)

    def _drop(self, temporary: Path) -> None:
        if self.world.main:
            shutil.rmtree(temporary, ignore_errors=True)


def _written(write: Callable[[], list[Path]], final: Path, temporary: Path) -> dict[Path, str]:
    """In the thread: write this rank's files, flush them to the disk, hash them."""
    with errors_named_after(final, temporary):
        files = write()
        for path in files:
            fsync(path)
        return {path: sha256_file(path) for path in files}


def _report(written: Future[dict[Path, str]]) -> dict[Path, str] | BaseException | None:
    """What the other ranks learn: None while the files are written, then their checksums, or an error."""
    if not written.done():
        return None
    error = written.exception()
    if error is None:
        return written.result()
    return error if isinstance(error, OSError) else RuntimeError(f"a rank could not save its state: {error!r}")


def copy_state(state: Path, target: Path, world: World) -> None:
    """Copy a state to the folder `target`, each rank its share of the files (all ranks).

    Files are hard links; on a file system without them all ranks copy at once.

    Raises:
        OSError: a rank could not write. All ranks raise it, and `target` stays as it was.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(atomic_dir(target)) if world.main else None
        files = sorted(p.relative_to(state) for p in state.rglob("*") if p.is_file()) if world.main else []
        folder, files = gather([(folder, files)], world)[0]
        failure: OSError | None = None
        try:
            with errors_named_after(target, folder):
                for name in files[world.rank :: world.size]:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(state / name, folder / name)
        except OSError as error:
            failure = error
        failures = [each for each in gather([failure], world) if each is not None]
        if failures:
            raise failure or failures[0]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        fsync(target)
