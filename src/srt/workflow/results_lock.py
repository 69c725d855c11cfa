"""The lock on a results folder: one workflow at a time."""

from __future__ import annotations

from pathlib import Path

from srt.common.lock import folder_lock


class ResultsLock:
    """A lock that the kernel holds, so that no killed workflow leaves it behind as Snakemake's own lock is left."""

    def __init__(self, results: Path) -> None:
        self._context = folder_lock(results / ".lock")

    def acquire(self) -> None:
        """Take the lock until this process ends.

        Raises:
            SrtError: another process holds it; the sentence names that process.
        """
        self._context.__enter__()
