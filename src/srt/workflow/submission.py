"""Jobs that SLURM refuses: replacements for functions of its plugin (applied by srt.workflow.patches)."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from srt.cluster.refusals import refusal
from srt.cluster.slurm import live_jobs

# Seconds until a job that SLURM refuses for the moment is submitted again: doubled from the first to the longest.
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0


def waiting_for_slurm(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Executor._report_job_error_threadsafe` that submits a job again if SLURM refused it only for the moment.

    The plugin calls it in one of its two threads for submissions. A timer does the waiting, so both threads remain free
    for other jobs, and the status of submitted jobs is queried in a third thread. To Snakemake a waiting job is a
    running one. A job that SLURM will never take fails without another attempt, with the key to change.
    """
    waits: dict[tuple[Any, int], float] = {}  # by job and attempt
    unclear: set[tuple[Any, int]] = set()  # those that SLURM may have taken although sbatch failed
    told: set[str] = set()

    def wait(executor: Any, job_info: Any, call: str) -> None:
        key = job_info.job.jobid, job_info.job.attempt
        seconds = waits.get(key, FIRST_WAIT)
        waits[key] = min(2 * seconds, LONGEST_WAIT)
        timer = threading.Timer(seconds, submit, (executor, job_info, call))
        timer.daemon = True  # the end of the workflow need not wait for it
        timer.start()

    def submit(executor: Any, job_info: Any, call: str) -> None:
        if getattr(executor.workflow.scheduler, "_user_kill", None):  # SIGTERM: nothing more is submitted
            original(executor, job_info, "Snakemake was asked to end while SLURM accepted no job.")
            return
        jobs = live_jobs(results) if (job_info.job.jobid, job_info.job.attempt) in unclear else {}
        if jobs is None:  # SLURM is still away
            wait(executor, job_info, call)
            return
        comment = _option(call, "--comment")
        taken = next((number for number, each in jobs.items() if each == comment), None)
        if taken is None:
            with contextlib.suppress(RuntimeError):  # the plugin has closed its threads: the workflow was stopped
                executor._job_submission_executor.submit(executor.run_job, job_info.job)
        else:
            log_file = Path(_option(call, "--output").replace("%j", taken))
            taken_over = replace(job_info, external_jobid=taken, aux={"slurm_logfile": log_file})
            executor._report_job_submission_threadsafe(taken_over)

    def report_job_error(executor: Any, job_info: Any, msg: str) -> None:
        job = job_info.job
        refused = refusal(msg, job.name)
        if refused is None:
            original(executor, job_info, msg)
        elif refused.remedy:
            job._attempt = max(job.attempt, job.restart_times + 1)  # not by its setter, which changes what it requests
            original(executor, job_info, f"SLURM refuses the job ({refused.reason}): {refused.remedy}. {msg}")
        else:
            if refused.unclear:
                unclear.add((job.jobid, job.attempt))
            if refused.reason not in told:
                told.add(refused.reason)
                executor.logger.warning(
                    f"SLURM accepts no job for now ({refused.reason}): jobs wait and are submitted again, no retry is "
                    "spent."
                )
            wait(executor, job_info, msg)

    return report_job_error


def _option(call: str, name: str) -> str:
    """The value of an option of a shell command, of which the rest need not be readable."""
    words = shlex.shlex(call.partition(f" {name} ")[2], posix=True)
    words.whitespace_split = True
    return words.get_token() or ""


def leaving_it_to_sbatch(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`validate_account` that takes an account as it is while the accounting database is away."""

    def validate_account(account: str, logger: Any) -> Any:
        try:
            return original(account, logger)
        except Exception as error:
            refused = refusal(str(error), "")
            if refused is None or refused.remedy:
                raise
            return account

    return validate_account
