"""Jobs that SLURM killed for their memory: how to tell from their logs, and what to change. squeue says FAILED only."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping

# What slurmstepd and srun write into a job's log, in the spellings of SLURM 20 to 24.
SAID_BY_SLURM = re.compile(rb"oom[-_ ]kill|out[ _]of[ _]memory|exceeded ((job|step) )?memory limit", re.IGNORECASE)
LOG_END = 20_000  # bytes of a log that are searched
# Rules whose memory the configuration sets, and the key of a model (config/models.yaml).
MODEL_KEYS = {"train": "train_job", "train_last": "train_job", "sample": "sample_job"}
FINAL: dict[str, str] = {}  # by job: the sentence on its last attempt, repeated at the end of a failed workflow


def was_the_cause(logs: Iterable[str | None]) -> bool:
    """Whether the end of one of a job's SLURM logs says that it had too little memory."""
    for log_file in filter(None, logs):
        with contextlib.suppress(OSError), open(log_file, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - LOG_END))
            if SAID_BY_SLURM.search(handle.read()):
                return True
    return False


def sentence(rule: str, wildcards: Mapping[str, str], asked_mb: int, attempt: int, attempts: int) -> str:
    """Which job was killed, the memory that it had, and what follows: another attempt, or a change by the user."""
    of = ", ".join(f"{key}={value}" for key, value in wildcards.items())
    name = f"rule {rule}" + (f" ({of})" if of else "")
    killed = f"out of memory: {name} asked for {asked_mb} MB in attempt {attempt} of {attempts}"
    if attempt < attempts:
        return f"{killed}; it is tried again."
    key = MODEL_KEYS.get(rule)
    by_config = f"{key}: {{memory_mb: {2 * asked_mb}}} of the model in config/models.yaml, or " if key else ""
    FINAL[name] = f"{killed}: give it more with {by_config}--set-resources {rule}:mem_mb={2 * asked_mb}"
    return f"{FINAL[name]}."
