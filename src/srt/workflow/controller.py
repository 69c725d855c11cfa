"""What the Snakefile needs at run time: the jobs' environment, the lock on a results folder, run patterns."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srt.distributed.state import exclusive


def prepare_environment() -> None:
    """Set what every job inherits.

    `python` in the rules is the one that runs Snakemake, unless a conda environment puts its own in front. One thread
    a process unless a script asks for more: results depend on it, and idle OpenMP threads spin.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def collect_garbage_rarely() -> None:
    """Look for reference cycles seldom, never among imported modules, and not at the end of the process.

    A DAG of thousands of jobs is millions of objects that all stay: looking through them is a fifth of a dry-run.
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)


def look_once_a_second() -> None:
    """Let one second look of Snakemake's scheduler wait at a time.

    After each look at the ready jobs (it asks for the sizes of all their inputs) Snakemake 9 sets a timer that makes it
    look again, whether one is set or not. So each job that ends adds a chain of looks that never stops: some thirty a
    second after 400 jobs, a third of a core, all of one in a matrix of thousands.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    def once(scheduler: Any, delay: float) -> None:
        if getattr(scheduler, "waits_to_look", False):
            return
        scheduler.waits_to_look = True

        def look() -> None:
            scheduler.waits_to_look = False
            scheduler._open_jobs.release()

        timer = threading.Timer(delay, look)
        timer.daemon = True  # the end of the workflow need not wait for it
        timer.start()

    if hasattr(JobScheduler, "_schedule_reevalutation"):
        JobScheduler._schedule_reevalutation = once


class ResultsLock:
    """One workflow at a time in a results folder. The kernel holds it, so no kill leaves it behind."""

    def __init__(self, results: Path) -> None:
        self._context = exclusive(results / ".lock")

    def acquire(self) -> None:
        """Take it for the rest of this process's life, or raise a sentence that names the holder."""
        self._context.__enter__()


def runs_pattern(follows: Mapping[str, str]) -> str:
    """A regular expression of exactly these runs `{id}-s{seed}`, each with the expression that has to follow it.

    Runs with the same seeds and the same rest share one alternative. Snakemake has the text of a wildcard's constraint
    in every path with that wildcard and reads it for every job, so it has to be short.
    """
    seeds: dict[tuple[str, str], list[str]] = {}
    for run, rest in follows.items():
        name, _, seed = run.rpartition("-s")
        seeds.setdefault((name, rest), []).append(seed)
    names: dict[tuple[str, str], list[str]] = {}
    for (name, rest), numbers in seeds.items():
        names.setdefault(("|".join(numbers), rest), []).append(name)
    return "|".join(f"(?:{'|'.join(ids)})-s(?:{numbers}){rest}" for (numbers, rest), ids in names.items())
