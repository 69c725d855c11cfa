"""SLURM behind one file: what the controller adds to Snakemake's SLURM plugin (2.8), and jobs of a dead controller.

The plugin as it is waits for ever in three cases (docs/cluster.md, faults): a status query fails a few times, and the
active jobs are forgotten; `sacct` says "CANCELLED by 1000", which is no state that it knows; a preempted job does not
come back to the queue. `install` wraps its status query so that each of them ends: nothing known means ask again, a
state is its first word, and a job that stays preempted counts as cancelled, so the rule is tried again.

It also names the jobs after the results folder, by which `wait_for_orphans` finds those of a controller that is gone,
and says of a job that was killed for its memory how much it had and what to change: squeue knows only FAILED.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.common.progress import log

PLUGIN = "snakemake_executor_plugin_slurm"
POLL_SECONDS = 5.0  # between two looks at the jobs of a dead controller
# A preempted job that SLURM requeues shows PREEMPTED for up to two minutes (sacct, credential lifetime); then it stays.
PREEMPTED_SECONDS = float(os.environ.get("SRT_PREEMPTED_SECONDS", 180))

# What slurmstepd and srun write into a job's log, in the spellings of SLURM 20 to 24.
OUT_OF_MEMORY = re.compile(rb"oom[-_ ]kill|out[ _]of[ _]memory|exceeded ((job|step) )?memory limit", re.IGNORECASE)
LOG_END = 20_000  # bytes of a log that are looked at
# Rules whose memory the configuration sets, and the key of a model (config/models.yaml).
MEMORY_KEYS = {"train": "train_job", "train_last": "train_job", "sample": "sample_job"}
KILLED_FOR_MEMORY: dict[str, str] = {}  # by job: a sentence, for the end of a failed workflow

Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]


def job_prefix(results: Path) -> str:
    """How the names of all jobs of a results folder begin: `srt-` and 8 hex digits of its path."""
    return "srt-" + hashlib.sha256(os.fsencode(results.resolve())).hexdigest()[:8]


class StatusQuery:
    """The plugin's `query_job_status`, made to end; called with a shell command, it returns states by job id."""

    def __init__(self, query: Query, clock: Callable[[], float] = time.monotonic) -> None:
        self.query, self.clock = query, clock
        self.preempted: dict[str, float] = {}
        self.silent = False

    async def __call__(self, command: str, logger: Any) -> tuple[dict[str, str], float]:
        states, seconds = await self.query(command, logger)
        if states is None and shlex.split(command)[0] == "sacct":  # no accounting here, or it is away: ask slurmctld
            name = shlex.split(command)[-1]
            states, seconds = await self.query(shlex.join(squeue(f"--name={name}", "--format=%i|%T")), logger)
        if states is None:
            if not self.silent:
                logger.warning("SLURM does not answer; running jobs go on, and it is asked again until it does.")
            self.silent = True
            return {}, 0.0  # the plugin keeps a job of which it hears nothing, and forgets all when it gets None
        if self.silent:
            logger.warning("SLURM answers again.")
        self.silent = False
        return {job: self.settle(job, state, logger) for job, state in states.items()}, seconds or 0.0

    def settle(self, job: str, state: str, logger: Any) -> str:
        """One of the plugin's states; PREEMPTED becomes CANCELLED when it has lasted."""
        state = state.split(maxsplit=1)[0] if state.strip() else state
        if state != "PREEMPTED":
            self.preempted.pop(job, None)
            return state
        since = self.preempted.setdefault(job, self.clock())
        if self.clock() - since < PREEMPTED_SECONDS:
            return state
        logger.warning(f"SLURM job {job} was preempted and not requeued: it counts as cancelled and is tried again.")
        return "CANCELLED"


def squeue(*options: str) -> list[str]:
    """A squeue command over all states, without header."""
    return ["squeue", "--noheader", "--states=all", *options]


def install(results: Path) -> None:
    """Change the plugin, if it is there, for this process; called where the workflow is read. Twice is once."""
    plugin = sys.modules.get(PLUGIN)
    if plugin is None or isinstance(getattr(plugin, "query_job_status", None), StatusQuery):
        return
    if not hasattr(plugin, "query_job_status"):
        raise SrtError(f"{PLUGIN} is not a version 2.8: install the one in constraints.txt")
    plugin.query_job_status = StatusQuery(plugin.query_job_status)
    original = plugin.Executor.__post_init__

    def post_init(self: Any, *args: Any, **kwargs: Any) -> None:
        settings = self.workflow.executor_settings
        settings.jobname_prefix = settings.jobname_prefix or job_prefix(results)
        settings.logdir = settings.logdir or results / "logs" / "slurm"
        settings.efficiency_report_path = settings.efficiency_report_path or results / "logs" / "slurm"
        original(self, *args, **kwargs)

    plugin.Executor.__post_init__ = post_init
    report = plugin.Executor.report_job_error

    def report_job_error(self: Any, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        if killed_for_memory(kwargs.get("aux_logs") or ()):
            msg = f"{memory_sentence(job_info.job)} {msg or ''}".strip()
        report(self, job_info, msg, **kwargs)

    plugin.Executor.report_job_error = report_job_error


def killed_for_memory(logs: Iterable[str | None]) -> bool:
    """Whether the end of one of a job's SLURM logs says that it had too little memory."""
    for log_file in filter(None, logs):
        with contextlib.suppress(OSError), open(log_file, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - LOG_END))
            if OUT_OF_MEMORY.search(handle.read()):
                return True
    return False


def memory_sentence(job: Any) -> str:
    """Which job was killed, what it had, and what follows: another attempt with more, or what a person changes."""
    asked, last = int(job.resources["mem_mb"]), job.restart_times + 1
    of = ", ".join(f"{key}={value}" for key, value in job.wildcards.items())
    name = f"rule {job.rule.name}" + (f" ({of})" if of else "")
    killed = f"out of memory: {name} asked for {asked} MB in attempt {job.attempt} of {last}"
    if job.attempt < last:
        return f"{killed}; it is tried again."
    key = MEMORY_KEYS.get(job.rule.name)
    by_config = f"{key}: {{memory_mb: {2 * asked}}} of the model in config/models.yaml, or " if key else ""
    sentence = f"{killed}: give it more with {by_config}--set-resources {job.rule.name}:mem_mb={2 * asked}"
    KILLED_FOR_MEMORY[name] = sentence
    return f"{sentence}."


def live_jobs(results: Path) -> dict[str, str] | None:
    """Rule by id of this user's jobs of a results folder that are not ended; None if SLURM does not answer."""
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
    """Before the first job: let the jobs of an earlier, killed controller end, then start this process anew.

    Submitting now would run them twice, and a failing twin deletes the outputs of the one that finishes. They are
    left alone, and the plan is made again from what they wrote. `by_slurm`: this run submits to SLURM itself, so an
    answer is insisted on. `again` replaces the new start in tests.
    """
    told: set[str] = set()
    while True:
        jobs = live_jobs(results)
        if jobs is None and not by_slurm:
            return
        if jobs is None:
            log("SLURM does not answer: asking again")
        elif not jobs:
            break
        elif set(jobs) - told:
            names = ", ".join(f"{job} ({rule})" for job, rule in jobs.items())
            log(
                f"waiting for {len(jobs)} SLURM jobs of an earlier start on {results}: {names}. They keep their work; "
                f"to begin at once instead: scancel {' '.join(jobs)} (training then goes on from its last saved state)"
            )
            told |= set(jobs)
        time.sleep(POLL_SECONDS)
    if told:
        log("they have ended: making the plan again")
        (again or restart)()


def restart() -> None:
    """Replace this process by the same command. The lock on the results goes with it: its file is close-on-exec."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
