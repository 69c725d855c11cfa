"""A folder's lock: held with flock by one process, freed by the kernel however that process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from srt.common.errors import SrtError


class FolderInUse(SrtError):
    """Another process holds a folder's lock; `holder` names it."""

    def __init__(self, sentence: str, holder: str = "another process") -> None:
        super().__init__(sentence)
        self.holder = holder


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, the file `lock` in it, which names the holder.

    Raises:
        FolderInUse: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            sentence = f"{folder} is in use by {holder}: wait for it or stop it, then run this again"
            raise FolderInUse(sentence, holder) from None
        handle.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        handle.write(f"process {os.getpid()} on {socket.gethostname()}" + (f" (SLURM job {job})" if job else ""))
        handle.flush()
        yield
