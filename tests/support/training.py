"""Training runs on the tiny base: segments in this process, scripts in others, kills and restarts, two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from srt.cluster import launch
from srt.common.errors import Interrupted
from srt.common.io import sha256_file
from srt.training.alarm_action import action_of
from srt.training.run import run_segment
from srt.training.segment import Segment
from srt.training.training_set import read_training_set
from support import ROOT, warm


def segment(folder: Path, base: Path, spec: dict, start: int, stop: int, **more: object) -> Segment:
    place = folder / f"step-{stop}"
    values = {
        "resume": folder / f"step-{start}" / "state" if start else None, "work": folder / "work" / f"step-{stop}",
        "model_out": place / "model", "state_out": place / "state", "metrics_out": place / "metrics.parquet",
        "save_every": 1, **more,
    }  # fmt: skip
    return Segment(spec=spec, base=base, start=start, stop=stop, **values)


def whole_run(folder: Path, base: Path, spec: dict, stop: int = 2, **more: object) -> Segment:
    """The segment of a whole run in `folder`, whose state is saved at its end."""
    return segment(
        folder, base, spec, 0, stop, work=folder / "work", model_out=folder / "model", state_out=folder / "state",
        metrics_out=folder / "metrics.parquet", **{"save_every": 100, **more},
    )  # fmt: skip


def train(folder: Path, base: Path, sums: Path, spec: dict, *cuts: int, **more: object) -> Path:
    """Train through the checkpoints `cuts`, each in a segment of its own; return the last one's folder."""
    data, truth = read_training_set(sums, spec["reward"])
    for start, stop in zip((0, *cuts), cuts, strict=False):
        run_segment(segment(folder, base, spec, start, stop, **more), data, truth)
    return folder / f"step-{cuts[-1]}"


def train_on(
    folder: Path, base: Path, sums: Path, spec: dict, *cuts: int, labels: Path | None = None, **more: object
) -> Path:
    """Like `train`, and start again after every `Interrupted`; `labels` for a run that needs them."""
    data, truth = read_training_set(sums, spec["reward"], None, labels, action_of(spec))
    for begin, stop in zip((0, *cuts), cuts, strict=False):
        while True:
            try:
                run_segment(segment(folder, base, spec, begin, stop, **more), data, truth)
                break
            except Interrupted:
                pass
    return folder / f"step-{cuts[-1]}"


def weights(step: Path) -> str:
    return sha256_file(step / "model" / "model.safetensors")


def segment_file(path: Path, segment: Segment, problems: Path, **data: Path) -> Path:
    """Write the file that scripts/train.py reads; `data`: labels, preferences or subset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = {name: str(table) for name, table in (data | {"problems": problems}).items()}
    values = segment.model_dump(mode="json", exclude_defaults=True)
    path.write_text(json.dumps({**values, "data": tables}), encoding="utf-8")
    return path


def script(segment: Segment, problems: Path, **data: Path) -> list[str]:
    """The train script's words for a segment, whose file is in its work folder, as the rule puts it."""
    file = segment_file(segment.work / "segment.json", segment, problems, **data)
    return [str(ROOT / "scripts" / "train.py"), "--segment", str(file)]


def command(folder: Path, base: Path, sums: Path, spec: dict, stop: int, **more: object) -> list[str]:
    """The command that trains a whole run; `more`: labels, or fields of the segment."""
    data = {name: more.pop(name) for name in ("labels", "preferences") if name in more}
    return [sys.executable, *script(segment(folder, base, spec, 0, stop, **more), sums, **data)]


def wait_for_state(work: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
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


def _environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("src", "scripts", "tests"))
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def two_ranks(*args: str, timeout: float = 500) -> subprocess.CompletedProcess:
    """Run a script as two processes over gloo, without torchrun, which takes longer to start: for ranks that end alike.

    The exit code is that of the first rank that failed.
    """
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.free_port()), "WORLD_SIZE": "2"}
    environments = [_environment() | port | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda own: warm.run(list(args), env=own, timeout=timeout), environments))
    code = next((rank.returncode for rank in done if rank.returncode), 0)
    out, err = "".join(rank.stdout for rank in done), "".join(rank.stderr for rank in done)
    return subprocess.CompletedProcess(list(args), code, out, err)


def torchrun(*args: str, timeout: float = 500) -> subprocess.CompletedProcess:
    """Run a script as the train rule does, as two processes on this machine over gloo."""
    command = launch.torchrun(1, 2, "", "", list(args))  # the command of scripts/launch.py where torch sees two GPUs
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=timeout)
