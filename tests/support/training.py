"""Training runs on the tiny base: segments in this process, scripts in others, kills and restarts, two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from srt.cluster import launch
from srt.common.io import sha256_file
from srt.training.trainer import Segment, run_segment
from srt.training.training_set import read_training_set
from support import ROOT


def segment(folder: Path, base: Path, spec: dict, start: int, stop: int, **more: object) -> Segment:
    place = folder / f"step-{stop}"
    resume = folder / f"step-{start}" / "state" if start else None
    values = {"save_every": 1, **more}
    return Segment(spec, base, resume, start, stop, folder / "work" / f"step-{stop}", place / "model", place / "state",
                   place / "metrics.parquet", **values)  # fmt: skip


def whole_run(folder: Path, base: Path, spec: dict, stop: int = 2) -> Segment:
    """The segment of a whole run in `folder`, whose state is saved at its end."""
    return Segment(spec, base, None, 0, stop, folder / "work", folder / "model", folder / "state",
                   folder / "metrics.parquet", save_every=100)  # fmt: skip


def train(folder: Path, base: Path, sums: Path, spec: dict, *cuts: int, **more: object) -> Path:
    """Train through the checkpoints `cuts`, each in a segment of its own; return the last one's folder."""
    data, truth = read_training_set(sums, spec["reward"])
    for start, stop in zip((0, *cuts), cuts, strict=False):
        run_segment(segment(folder, base, spec, start, stop, **more), data, truth)
    return folder / f"step-{cuts[-1]}"


def weights(step: Path) -> str:
    return sha256_file(step / "model" / "model.safetensors")


def command(folder: Path, base: Path, sums: Path, spec: dict, stop: int, *more: str) -> list[str]:
    place = folder / f"step-{stop}"
    return [
        sys.executable, str(ROOT / "scripts" / "train.py"), "--spec", json.dumps(spec), "--base", str(base),
        "--problems", str(sums), "--start", "0", "--stop", str(stop), "--work", str(folder / "work" / f"step-{stop}"),
        "--model-out", str(place / "model"), "--state-out", str(place / "state"),
        "--metrics-out", str(place / "metrics.parquet"), "--save-every", "1", *more,
    ]  # fmt: skip


def wait_for_state(work: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not any((work / f"state-{n}").is_dir() for n in range(step, 9)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(args: list[str]) -> subprocess.Popen:
    return subprocess.Popen(args, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def killed_then_finished(args: list[str], work: Path, moments: tuple[tuple[int, float], ...]) -> None:
    """For each (step, delay): start, wait for the step's state, SIGKILL after `delay` seconds. Then run to the end."""
    for step, delay in moments:
        process = start(args)
        wait_for_state(work, step, process)
        time.sleep(delay)
        process.kill()
        process.communicate()
    process = start(args)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "resuming at step" in stderr


def torchrun(*args: str, timeout: float = 500) -> subprocess.CompletedProcess:
    """Run a script as the train rule does, as two processes on this machine over gloo."""
    path = os.pathsep.join(str(ROOT / part) for part in ("src", "scripts", "tests"))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = launch.torchrun(1, 2, "", "", list(args))  # the command of scripts/launch.py where torch sees two GPUs
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
