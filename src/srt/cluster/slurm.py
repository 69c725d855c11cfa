"""SLURM as the controller sees it: the names of a results folder's jobs, and the jobs of a controller that was killed.

What the workflow changes in Snakemake's SLURM plugin is in `srt.workflow.patches`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from srt.common.progress import log

POLL_SECONDS = 5.0  # between two queries for the jobs of a killed controller


def job_prefix(results: Path) -> str:
    """How the names of all jobs of a results folder begin: `srt-` and 8 hex digits of its path."""
    return "srt-" + hashlib.sha256(os.fsencode(results.resolve())).hexdigest()[:8]


def squeue(*options: str) -> list[str]:
    """A squeue command over all states, without header."""
    return ["squeue", "--noheader", "--states=all", *options]


def live_jobs(results: Path) -> dict[str, str] | None:
    """Rule by job id of this user's pending and running jobs of a results folder; None if SLURM does not answer."""
    command = ["squeue", "--noheader", f"--user={os.geteuid()}", "--format=%i|%j|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return {}  # no SLURM on this machine
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    rows = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[1].startswith(job_prefix(results) + "_")}


def wait_for_orphans(results: Path, by_slurm: bool, again: Callable[[], None] | None = None) -> None:
    """Before the first job: wait for the jobs of an earlier, killed controller, then start this process anew.

    Submitting now would run them twice, and a twin that fails deletes the outputs of the one that finishes. The new
    start plans again from what they wrote.

    Args:
        results: the results folder.
        by_slurm: this run submits to SLURM, so it waits until SLURM answers.
        again: called instead of the new start (tests).
    """
    told: set[str] = set()
    while True:
        jobs = live_jobs(results)
        if jobs is None and not by_slurm:
            return
        if jobs is None:
            log("SLURM does not answer: trying again")
        elif not jobs:
            break
        elif set(jobs) - told:
            names = ", ".join(f"{job} ({rule})" for job, rule in jobs.items())
            log(
                f"waiting for {len(jobs)} SLURM jobs of an earlier start on {results}: {names}. Their work is kept. "
                f"To begin at once instead: scancel {' '.join(jobs)} (training then resumes from its last saved state)"
            )
            told |= set(jobs)
        time.sleep(POLL_SECONDS)
    if told:
        log("they have ended: planning again")
        (again or restart)()


def restart() -> None:
    """Replace this process by the same command. The lock on the results goes with it: its file is close-on-exec."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
