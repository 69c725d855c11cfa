"""What a job finds on a compute node: GPUs, driver, versions, and the write speed of scratch and results."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "vllm", "transformers", "deepspeed", "snakemake", "snakemake-executor-plugin-slurm")
SPEED_MB = 256


def installed_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    """Model, driver and memory of each GPU by nvidia-smi, or why it lists none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "no nvidia-smi"
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer"
    return "; ".join(done.stdout.strip().splitlines()) or (done.stderr or done.stdout).strip() or "no GPU"


def write_speed(folder: Path, megabytes: int = SPEED_MB) -> float:
    """MB/s of writing a file of `megabytes` to `folder`, synced to the disk."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as handle:
        began = time.monotonic()
        for _ in range(megabytes):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
        return round(megabytes / (time.monotonic() - began), 1)


def inspect_node(partition: str, gpus: int, scratch: Path, results: Path) -> dict[str, Any]:
    """What this node has, and `problems`: a sentence for each thing that would fail here."""
    import torch

    seen = torch.cuda.device_count()
    found: dict[str, Any] = {
        "partition": partition,
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "gpus_requested": gpus,
        "gpus_given": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "gpus_seen": seen,
        "driver": _driver(),
        "cuda": torch.version.cuda or "torch without CUDA",
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in PACKAGES},
        "scratch": str(scratch),
        "problems": [],
    }
    if seen < gpus:
        found["problems"].append(
            f"the job has {gpus} GPU and torch sees {seen} (CUDA: {found['cuda']}): "
            "install the GPU build (make setup-gpu), or check the driver"
        )
    for name, folder in (("scratch_mb_s", scratch), ("results_mb_s", results)):
        try:
            found[name] = write_speed(folder)
        except OSError as error:
            found[name] = None
            found["problems"].append(f"cannot write to {folder}: {error.strerror} (scratch is SRT_SCRATCH)")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A few lines per partition as text, problems last."""
    lines = []
    for row in rows:
        packages = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        lines += [
            f"{row['partition']}: job {row['job'] or '-'} on {row['node'] or row['host']}, {row['cpus']} cores",
            f"  GPUs      {row['gpus_requested']} requested, '{row['gpus_given']}' given, {row['gpus_seen']} in torch",
            f"  driver    {row['driver']}; CUDA of torch: {row['cuda']}",
            f"  versions  python {row['python']}, {packages}",
            f"  disks     scratch {row['scratch']} {row['scratch_mb_s']} MB/s, results {row['results_mb_s']} MB/s",
            *(f"  problem   {problem}" for problem in row["problems"]),
        ]
    count = sum(len(row["problems"]) for row in rows)
    return "\n".join([*lines, f"{len(rows)} partitions, {count} problems"])
