"""The lock on a results folder: one workflow at a time."""

from __future__ import annotations

from pathlib import Path

from srt.distributed.state import exclusive


class ResultsLock:
    """A lock that the kernel holds, so that no killed workflow leaves it behind as Snakemake's own lock is left."""

    def __init__(self, results: Path) -> None:
        self._context = exclusive(results / ".lock")

    def acquire(self) -> None:
        """Take the lock until this process ends.

        Raises:
            SrtError: another process holds it; the sentence names that process.
        """
        self._context.__enter__()
