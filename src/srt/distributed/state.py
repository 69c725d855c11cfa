"""The training state on disk: atomic, checksummed, locked, tied to its spec.

A segment keeps its progress in a separate folder (`{results}/progress/{run}/step-{n}`), beside Snakemake's declared
outputs (Snakemake deletes those when a job fails):

    lock              held while a process trains; names the holder (srt.common.lock)
    journal.jsonl     one line per attempt and per step, for people: when, which process, which SLURM job
    .state-{step}.tmp a state that is being written (srt.distributed.saving)
    .state-{step}.old a state that is being replaced by a new one of the same step
    state-{step}/     DeepSpeed's files, progress.json (step, spec, metrics so far), manifest.json (checksums)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srt.common.atomic_files import errors_named_after, fsync, remove_stale, set_aside
from srt.common.errors import SrtError
from srt.common.io import read_json, sha256_file, spec_hash, write_json
from srt.common.progress import log

STATE = re.compile(r"^state-(\d+)$")
PROGRESS = ("step", "spec", "world_size", "metrics")  # keys that every progress.json has
NAMES = ("run", "init", "teacher")  # keys of a spec that hold names of runs; the content is in a state's `inputs`


def state_spec(spec: Mapping[str, Any]) -> str:
    """The hash of a spec that a state carries: without names, so that a renamed run (`srt rename`) can be extended."""
    return spec_hash({key: value for key, value in spec.items() if key not in NAMES})


def clear_up(folder: Path, *outputs: Path) -> None:
    """Remove half-written states and outputs of a killed attempt; the caller holds the lock of `folder`."""
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


def append_journal(folder: Path, **entry: Any) -> None:
    """Append one line to the folder's journal, which stays when a job is retried and its log is deleted."""
    who = {"time": round(time.time(), 2), "host": socket.gethostname(), "process": os.getpid()}
    if job := os.environ.get("SLURM_JOB_ID"):
        who["job"] = int(job)
    path = folder / "journal.jsonl"
    if path.is_dir():  # a run needs no log, so whatever has the log's name is moved away
        log(f"{path} is a folder: renamed to {set_aside(path).name}, and a new journal is started")
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps({**who, **entry}) + "\n")


def commit_state(final: Path, temporary: Path, progress: Mapping[str, Any], sums: Mapping[Path, str]) -> None:
    """Complete a written state: add progress and checksums, rename it to `final`, remove the older states.

    All of it is on the disk before the rename, and a state that it replaces stays until then, so that a complete state
    exists at any moment.

    Args:
        sums: known checksums of files that are already flushed to the disk; the others are hashed and flushed here.
    """
    aside = final.with_name(f".{final.name}.old")
    with errors_named_after(final, temporary):
        write_json(temporary / "progress.json", dict(progress))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for file in files:
            if file not in sums:
                fsync(file)
        manifest = {str(p.relative_to(temporary)): sums.get(p) or sha256_file(p) for p in files}
        write_json(temporary / "manifest.json", manifest)
        for folder in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            fsync(folder)
    if final.exists():
        os.replace(final, aside)
    os.replace(temporary, final)
    fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
    drop_others(final)


def drop_others(final: Path) -> None:
    """Remove all states beside `final`, which is the newest one."""
    for other in states(final.parent):
        if other != final:
            shutil.rmtree(other)


def states(folder: Path) -> list[Path]:
    """All states in a progress folder, oldest step first."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := STATE.match(p.name))] if folder.is_dir() else []
    return [p for _, p in sorted(found)]


def check_state(path: Path, spec: dict[str, Any], world_size: int, rank: int | None = None) -> dict[str, Any]:
    """Verify checksums, spec and number of ranks; return progress.json.

    With `rank`, only that rank's share of the files is hashed; all ranks together hash all of them.

    Raises:
        SrtError: one sentence that names the file, what is wrong with it and what to do.
    """
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or "progress.json" not in manifest:
        raise SrtError(
            f"{path / 'manifest.json'} does not list a training state's files: delete {path} and run the same command "
            "to train that part again"
        )
    share = slice(None) if rank is None else slice(rank, None, world_size)
    for name, expected in list(manifest.items())[share]:
        file = path / name
        if not file.is_file() or sha256_file(file) != expected:
            raise SrtError(
                f"{file} is damaged or missing: delete {path} and run the same command to train that part again"
            )
    progress = read_json(path / "progress.json")
    missing = [k for k in PROGRESS if k not in progress] if isinstance(progress, dict) else list(PROGRESS)
    if missing:
        raise SrtError(
            f"{path / 'progress.json'} lacks '{missing[0]}', so this is not a training state: delete {path} and run "
            "the same command to train that part again"
        )
    if progress["spec"] not in (state_spec(spec), spec_hash(spec)):  # the latter: older states
        raise SrtError(
            f"{path} is a state of another spec ({progress['spec']}, now {state_spec(spec)}): a hyperparameter, "
            "the model or the data has changed; delete it or rerun the run from its first segment"
        )
    if progress["world_size"] != world_size:
        raise SrtError(
            f"{path} was written by {progress['world_size']} processes, this job has {world_size}: "
            "use as many GPUs, or delete it to start the run again"
        )
    return dict(progress)
