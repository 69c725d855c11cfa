"""The training state on disk: atomic, checksummed, locked, tied to its spec.

A segment keeps its progress in a folder of its own (`{results}/progress/{run}/step-{n}`), beside Snakemake's declared
outputs (Snakemake deletes those when a job fails):

    lock              held (flock) while a process trains; names the holder
    journal.jsonl     one line an attempt and a step, for people: when, which process, which SLURM job
    .state-{step}.tmp one that is being written (srt.distributed.saving)
    .state-{step}.old one that a new state of the same step takes the place of
    state-{step}/     DeepSpeed's files, progress.json (step, spec, metrics so far), manifest.json (checksums)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.common.io import flush, naming, read_json, remove_stale, sha256_file, spec_hash, write_json

STATE = re.compile(r"^state-(\d+)$")
PROGRESS = ("step", "spec", "world_size", "metrics")  # keys of every progress.json


class InUse(SrtError):
    """Another process holds a folder's lock."""

    def __init__(self, sentence: str, holder: str = "another process") -> None:
        super().__init__(sentence)
        self.holder = holder


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a second process is refused with the holder's name. The kernel frees it on any death."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            sentence = f"{folder} is in use by {holder}: wait for it or stop it, then run this again"
            raise InUse(sentence, holder) from None
        handle.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        handle.write(f"process {os.getpid()} on {socket.gethostname()}" + (f" (SLURM job {job})" if job else ""))
        handle.flush()
        yield


def clear_up(folder: Path, *outputs: Path) -> None:
    """Remove what a killed attempt left half-written: states in `folder`, whose lock is held, and its outputs."""
    for torn in folder.glob(".state-*.tmp"):
        shutil.rmtree(torn)
    for aside in folder.glob(".state-*.old"):
        whole = folder / aside.name.removeprefix(".").removesuffix(".old")
        if whole.exists():
            shutil.rmtree(aside)
        else:  # killed between the two renames of `commit_state`
            os.replace(aside, whole)
    for output in outputs:
        remove_stale(output, alone=True)


def note(folder: Path, **entry: Any) -> None:
    """Append one line to the folder's journal. A job's log is deleted when the job is tried again; this stays."""
    who = {"time": round(time.time(), 2), "host": socket.gethostname(), "process": os.getpid()}
    if job := os.environ.get("SLURM_JOB_ID"):
        who["job"] = int(job)
    with open(folder / "journal.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps({**who, **entry}) + "\n")


def commit_state(final: Path, temporary: Path, progress: Mapping[str, Any], sums: Mapping[Path, str]) -> None:
    """Make a written state whole: progress, checksums of all files, its name; then drop the older ones.

    The disk has all of it before it has its name, and what it replaces until then: at any moment a state is whole.

    Args:
        sums: checksums of files that are known, and on the disk; the others are hashed here.
    """
    aside = final.with_name(f".{final.name}.old")
    with naming(final, temporary):
        write_json(temporary / "progress.json", dict(progress))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for file in files:
            if file not in sums:
                flush(file)
        manifest = {str(p.relative_to(temporary)): sums.get(p) or sha256_file(p) for p in files}
        write_json(temporary / "manifest.json", manifest)
        for folder in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            flush(folder)
    if final.exists():
        os.replace(final, aside)
    os.replace(temporary, final)
    flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
    drop_others(final)


def drop_others(final: Path) -> None:
    """Remove the states beside `final`, the newest one."""
    for other in states(final.parent):
        if other != final:
            shutil.rmtree(other)


def states(folder: Path) -> list[Path]:
    """All states in a progress folder, oldest step first."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := STATE.match(p.name))] if folder.is_dir() else []
    return [p for _, p in sorted(found)]


def check_state(path: Path, spec: dict[str, Any], world_size: int, rank: int | None = None) -> dict[str, Any]:
    """Verify checksums, spec and number of ranks; return progress.json. Each failure is one sentence.

    `rank`: hash this rank's share of the files only; all ranks together hash all.
    """
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or "progress.json" not in manifest:
        raise SrtError(
            f"{path / 'manifest.json'} is no list of a training state's files: delete {path} and run the same command "
            "to train that part again"
        )
    for name, expected in list(manifest.items())[rank :: world_size if rank is not None else None]:
        file = path / name
        if not file.is_file() or sha256_file(file) != expected:
            raise SrtError(
                f"{file} is damaged or missing: delete {path} and run the same command to train that part again"
            )
    progress = read_json(path / "progress.json")
    missing = [k for k in PROGRESS if k not in progress] if isinstance(progress, dict) else list(PROGRESS)
    if missing:
        raise SrtError(
            f"{path / 'progress.json'} lacks '{missing[0]}', so it is not of a training state: delete {path} and run "
            "the same command to train that part again"
        )
    if progress["spec"] != spec_hash(spec):
        raise SrtError(
            f"{path} is a checkpoint of another spec ({progress['spec']}, now {spec_hash(spec)}): a hyperparameter, "
            "the model or the data changed since; delete it or rerun the run from its first segment"
        )
    if progress["world_size"] != world_size:
        raise SrtError(
            f"{path} was written by {progress['world_size']} processes, this job has {world_size}: "
            "use as many GPUs, or delete it to start the run again"
        )
    return dict(progress)
