"""What the controller and every job run in: search paths, threads, garbage collection."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path

import srt


def prepare_environment() -> None:
    """Set what every job inherits.

    `python` in the rules is the one that runs Snakemake, unless a conda environment puts its own in front; it imports
    the `srt` of this clone, installed or not. One thread per process unless a script asks for more: results depend on
    it, and idle OpenMP threads spin.
    """
    _put_first("PATH", Path(sys.executable).parent)
    _put_first("PYTHONPATH", Path(srt.__file__).resolve().parent.parent)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _put_first(variable: str, folder: Path) -> None:
    """Put a folder in front of a search path."""
    os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))


def collect_garbage_rarely() -> None:
    """Search for reference cycles rarely, never among imported modules, and not at the end of the process.

    The DAG of thousands of jobs is millions of objects, which live as long as the process: searching them took a fifth
    of a dry-run (Snakemake 9.27).
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)
