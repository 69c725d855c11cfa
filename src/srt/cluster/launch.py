"""How a training job starts: with how many processes, on how many nodes, and until when.

A rule knows how many GPUs its job requests, but only the node knows which GPUs it has. So the rule starts this
launcher, which replaces itself by the command that fits:

    no GPU requested, or a CPU build of torch    python SCRIPT ...               one process
    n GPUs on one node                           torchrun --standalone ...       n processes
    n GPUs over m nodes (SLURM)                  srun, torchrun on each node     n / m processes per node

torchrun is `python -m srt.cluster.torchrun`, which passes SIGTERM on and ends with the workers' exit code. PYTHONPATH
begins with the folder of this srt, so that it is found where srt is not installed.

A job that requests no GPU sees none (`hide_gpus`), also on a machine that has some.

There is one process per GPU that torch sees, not per GPU that was requested: with a broken driver, n processes without
a GPU would compete for the CPU. `SRT_PROCESSES_PER_NODE` overrides the count (tests, and clusters without GPUs).

The launcher also sets `SRT_DEADLINE` to the end of the SLURM job (seconds since 1970), which `time_budget` reads: SLURM
kills a job at its limit without a signal that the trainer could see (docs/cluster.md).
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
from srt.common.network import cluster_address
from srt.common.progress import log

TORCHRUN = "srt.cluster.torchrun"
MARGIN_SECONDS = 300.0  # kept free before the limit for the last save, the outputs, Snakemake's end
# glibc returns freed memory to the system, and a step on a CPU then spends a tenth of its time on getting the same
# pages again. So freed memory is kept, in huge pages where the system has them. Other C libraries do not read this.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}" for name in ("hugetlb=1", f"mmap_threshold={32 << 20}", f"trim_threshold={4 << 30}")
    )
}


# PyTorch's allocator on a GPU grows its segments instead of keeping many that are each too small: packs differ in size
# from step to step. vLLM switches it off around the memory that it gives back in its sleep.
SEGMENTS = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def hide_gpus() -> None:
    """Let this process, and those that it starts, see no GPU: for a job without one on a machine that has some.

    Call it before CUDA is used for the first time.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


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
    """Seconds of a time as squeue prints it, `[days-][[hours:]minutes:]seconds`; None for words such as UNLIMITED.

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
    """When training in this SLURM job must have ended (seconds since 1970); None without a limit.

    That is earlier than the job's own end by a margin: SRT_MARGIN_SECONDS, else 5 minutes, at most a tenth of the time.
    """
    job = os.environ.get("SLURM_JOB_ID")
    left = seconds_of(_ask_slurm(job, "%L")) if job else None
    if left is None:
        return None
    return now + left - float(os.environ.get("SRT_MARGIN_SECONDS", min(MARGIN_SECONDS, 0.1 * left)))


def time_budget(minutes: float | None) -> float | None:
    """Minutes from now that training may take: the smaller of `minutes` and the time until SRT_DEADLINE."""
    end = os.environ.get("SRT_DEADLINE")
    if end is None:
        return minutes
    left = max(0.0, (float(end) - time.time()) / 60)
    return left if minutes is None else min(minutes, left)


def processes(gpus: int, host: str) -> int:
    """Processes to start on this node for a job that has `gpus` GPUs here.

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
        log(
            f"torch {torch.__version__} is built without CUDA: starting one process on the CPU, {gpus} GPUs stay unused"
        )
        return 1
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise SrtError(
            f"{host}: the job has {gpus} GPUs and torch sees {seen}: check nvidia-smi there (driver, MIG, "
            f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}), or change the model's gpus_train"
        )
    return gpus


def torchrun(nodes: int, per_node: int, endpoint: str, job: str, script: list[str]) -> list[str]:
    """The command that starts this node's processes; rank 0 is on the first node to reach the rendezvous."""
    where = ["--standalone"] if nodes == 1 else [
        f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={job}",
    ]  # fmt: skip
    # without the -- torchrun takes --start for its own --start-method
    return [sys.executable, "-m", TORCHRUN, *where, f"--nproc-per-node={per_node}", "--", *script]


def free_port() -> int:
    """A port of this host that no process listens on."""
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
    # This process is on the job's first node, and the torchrun of each node connects to a port of it. --overlap: the
    # job step of Snakemake holds the first node's resources. Without --cpus-per-task all processes of a node share one
    # core.
    step = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    cores = _ask_slurm(job, "%C")
    step += [f"--cpus-per-task={int(cores) // nodes}"] if cores.isdigit() else []
    return [*step, *torchrun(nodes, per_node, f"{cluster_address()}:{free_port()}", job, script)]


def main(gpus: int, nodes: int, script: list[str]) -> None:
    """Replace this process by the training."""
    end = deadline(time.time())
    if end is not None:
        os.environ["SRT_DEADLINE"] = f"{end:.0f}"
    source = str(Path(srt.__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    argv = command(gpus, nodes, script)
    # With GPUs, complete states briefly sit in host memory, which must be released to the system afterwards.
    if gpus == 0:
        hide_gpus()
    os.environ.update((SEGMENTS if gpus else KEEP_MEMORY) | os.environ)
    if argv[0] == "srun":  # else srun would keep to Snakemake's job step of one node, which these describe
        for name in [n for n in os.environ if n.startswith("SLURM_") and n not in ("SLURM_JOB_ID", "SLURM_CONF")]:
            del os.environ[name]
    sys.stderr.flush()
    os.execvp(argv[0], argv)
