"""Jobs on this machine that outlived a killed Snakemake; `srt.cluster.slurm` finds those in SLURM."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from srt.cluster.slurm import restart
from srt.common.progress import log

VARIABLE = "SRT_JOB_OF"  # in the environment of every job: the results folder that it works for
POLL_SECONDS = 1.0
TELL_SECONDS = 60.0  # between two messages about the same processes


def mark_jobs(results: Path) -> None:
    """From now on, whatever this process starts is known as a job on this results folder."""
    os.environ[VARIABLE] = str(results.resolve())


def live_processes(results: Path) -> dict[int, str]:
    """This user's processes, by id, that were started as jobs on a results folder: the name of script or program.

    Processes of this machine alone are known, and none where there is no /proc (macOS).
    """
    mark = os.fsencode(f"{VARIABLE}={results.resolve()}")
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():  # started anew by `restart`, with its environment
            continue
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):  # empty for a process that has ended
                words = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
                found[int(folder.name)] = Path(next((w for w in words if w.endswith(".py")), words[0])).name
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def wait_for_processes(results: Path, again: Callable[[], None] = restart) -> None:
    """Before the first job: wait for the jobs of an earlier, killed Snakemake, then start this process anew.

    Jobs that began now would be refused by the locks of those, or write the same files; the new start plans again from
    what they wrote.

    Args:
        results: the results folder.
        again: starts this process anew (another one in tests).
    """
    began, told = time.monotonic(), float("-inf")  # `told`: seconds after `began` of the last message
    while jobs := live_processes(results):
        waited = time.monotonic() - began
        if waited - told >= TELL_SECONDS:
            names = ", ".join(f"{number} ({name})" for number, name in jobs.items())
            log(
                f"waiting for processes of an earlier start on {results}: {names}; {waited / 60:.0f} min so far. "
                f"Their work is kept. To begin at once instead: kill {' '.join(map(str, jobs))} (training then resumes "
                "from its last saved state)"
            )
            told = waited
        time.sleep(POLL_SECONDS)
    if told >= 0:
        log("they have ended: planning again")
        again()
