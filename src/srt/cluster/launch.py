"""How a training job starts: the number of processes, over how many nodes, and until when.

The rules know how many GPUs a job asks for; only the node knows what is there. So the rule starts this launcher, and
it replaces itself by the command that fits:

    no GPU asked, or a CPU build of torch    python SCRIPT ...               one process
    n GPUs on one node                       torchrun --standalone ...       n processes
    n GPUs over m nodes (SLURM)              srun, torchrun on each node     n / m processes a node

torchrun is `python -m srt.cluster.torchrun`, which hands SIGTERM on and ends with the workers' exit code. So that it is
found where srt is not installed, as in a plain clone, PYTHONPATH begins with the folder of this very srt.

One process a GPU that torch sees, never one a GPU that was asked for: where a driver is broken, n processes without a
GPU would fight for the CPU. `SRT_PROCESSES_PER_NODE` overrides the count (tests, and CPU-only clusters).

It also hands on the end of the SLURM job as `SRT_DEADLINE` (seconds since 1970), which `time_budget` reads: SLURM kills
a job at its limit without a signal that the trainer could see (docs/cluster.md).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import srt
from srt.common.errors import SrtError
from srt.common.progress import log

TORCHRUN = "srt.cluster.torchrun"
MARGIN_SECONDS = 300.0  # kept free before the limit for the last save, the outputs, Snakemake's end
# glibc gives freed memory back to the system, and a step on a CPU would pay for each of its pages anew: a tenth of its
# time. So what is freed is kept, in huge pages where the system lends them. Other C libraries do not read this.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}" for name in ("hugetlb=1", f"mmap_threshold={32 << 20}", f"trim_threshold={4 << 30}")
    )
}


def _ask_slurm(job: str, fields: str) -> str:
    """One line of squeue about a job; '' if SLURM does not answer."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", f"--format={fields}"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def seconds_of(text: str) -> float | None:
    """SLURM's time left, `[days-][[hours:]minutes:]seconds`, in seconds; None for UNLIMITED and the like.

    >>> seconds_of("1-02:00:30")
    93630.0
    """
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in (*parts, days or "0")) or len(parts) > 3:
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return float(total + 86400 * int(days or 0))


def deadline(now: float) -> float | None:
    """When a training in this SLURM job must have ended (seconds since 1970); None without a limit.

    A margin is kept free before the job's own end: SRT_MARGIN_SECONDS, or 5 minutes and at most a tenth of the time.
    """
    job = os.environ.get("SLURM_JOB_ID")
    left = seconds_of(_ask_slurm(job, "%L")) if job else None
    if left is None:
        return None
    return now + left - float(os.environ.get("SRT_MARGIN_SECONDS", min(MARGIN_SECONDS, 0.1 * left)))


def time_budget(minutes: float | None) -> float | None:
    """Minutes from now that a trainer may take: the smaller of `minutes` and what is left until SRT_DEADLINE."""
    end = os.environ.get("SRT_DEADLINE")
    if end is None:
        return minutes
    left = max(0.0, (float(end) - time.time()) / 60)
    return left if minutes is None else min(minutes, left)


def processes(gpus: int, host: str) -> int:
    """Processes on this node for a job with `gpus` GPUs on it.

    Raises:
        SrtError: torch is built for GPUs and sees fewer than the job has.
    """
    given = os.environ.get("SRT_PROCESSES_PER_NODE")
    if given is not None:
        if not given.isdigit() or int(given) < 1:
            raise SrtError(f"SRT_PROCESSES_PER_NODE is '{given}': give a number of at least 1, or unset it")
        return int(given)
    if gpus < 1:
        return 1
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        log(f"torch {torch.__version__} is built without CUDA: one process on the CPU, {gpus} GPUs stay unused")
        return 1
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise SrtError(
            f"{host}: the job has {gpus} GPUs and torch sees {seen}: look at nvidia-smi there (driver, MIG, "
            f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}), or change the model's gpus_train"
        )
    return gpus


def torchrun(nodes: int, per_node: int, endpoint: str, job: str, script: list[str]) -> list[str]:
    """The command that starts this node's processes; rank 0's node is whichever comes first to the rendezvous."""
    where = ["--standalone"] if nodes == 1 else [
        f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={job}",
    ]  # fmt: skip
    # without the -- torchrun takes --start for its own --start-method
    return [sys.executable, "-m", TORCHRUN, *where, f"--nproc-per-node={per_node}", "--", *script]


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def command(gpus: int, nodes: int, script: list[str]) -> list[str]:
    """The command for a job with `gpus` GPUs over `nodes` nodes (1: this machine)."""
    host = socket.gethostname()
    if gpus % nodes:
        raise SrtError(f"gpus_train={gpus} does not fill {nodes} nodes evenly: use a multiple of {nodes}")
    per_node = processes(gpus // nodes, host)
    if nodes == 1:
        return [sys.executable, *script] if per_node == 1 else torchrun(1, per_node, "", "", script)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise SrtError(
            f"{gpus} GPUs over {nodes} nodes need a SLURM job: run with --profile slurm, or lower gpus_train"
        )
    # This process is on the job's first node; one torchrun a node meets at a port of it. --overlap: Snakemake's own
    # step holds the resources of the first node. Without --cpus-per-task a node's processes would share one core.
    step = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    cores = _ask_slurm(job, "%C")
    step += [f"--cpus-per-task={int(cores) // nodes}"] if cores.isdigit() else []
    return [*step, *torchrun(nodes, per_node, f"{host}:{free_port()}", job, script)]


def main(gpus: int, nodes: int, script: list[str]) -> None:
    """Replace this process by the training."""
    end = deadline(time.time())
    if end is not None:
        os.environ["SRT_DEADLINE"] = f"{end:.0f}"
    source = str(Path(srt.__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    argv = command(gpus, nodes, script)
    if gpus == 0:  # beside a GPU host memory holds whole states for a moment, which shall not be kept
        os.environ.update(KEEP_MEMORY | os.environ)
    if argv[0] == "srun":  # these describe Snakemake's step of one node, and srun would stay within them
        for name in [n for n in os.environ if n.startswith("SLURM_") and n not in ("SLURM_JOB_ID", "SLURM_CONF")]:
            del os.environ[name]
    sys.stderr.flush()
    os.execvp(argv[0], argv)
