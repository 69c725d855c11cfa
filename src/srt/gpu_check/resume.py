"""kill -9 in the middle of a save, then resume: the weights are those of an undisturbed run.

Kernels with atomics may make two undisturbed runs differ: first by rounding, then by other samples. So two of them are
compared. If they are the same, the resumed run has to be the same; else it may be `APART` of the change that training
made from one of them, and the report says how far it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from srt.common.errors import SrtError
from srt.distributed.deepspeed_engine import DeepSpeedEngine
from srt.distributed.state import states
from srt.gpu_check.parts import STEPS, Machine, need_package, require
from srt.training.run import run_segment
from srt.training.segment import Segment
from srt.training.training_set import read_training_set

LARGEST = "135m"  # whose states of 2 GB are saved nine times
TORN = 2  # the save that is torn
APART = 0.5  # runs with other samples are more than 1 apart


def resumed(machine: Machine) -> dict[str, Any]:
    """Two undisturbed runs, and one that is killed and resumed."""
    need_package("deepspeed")
    small = machine if machine.size_name == "tiny" else replace(machine, size_name=LARGEST)
    first, second, killed = (small.folder / name for name in ("whole-1", "whole-2", "killed"))
    run_whole(small, first)
    run_whole(small, second)
    words = [sys.executable, "-m", "srt.gpu_check", "--kill", str(killed), str(small.folder), small.size_name]
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(words, env=clean, capture_output=True, text=True)
    require(
        done.returncode == -signal.SIGKILL,
        f"the run that kills itself ended with {done.returncode}: {done.stderr[-300:]}",
    )
    left = [path.name for path in states(killed / "work")]
    require(left == [f"state-{TORN - 1}"], f"after the kill the complete states are {left}")
    require((killed / "work" / f".state-{TORN}.tmp").is_dir(), "the kill left no torn state")
    run_whole(small, killed)
    base, a, b, c = (load_file(folder / "model.safetensors") for folder in (
        small.model, first / "model", second / "model", killed / "model"))  # fmt: skip
    change = _distance(a, base)
    apart, off = _distance(a, b) / change, min(_distance(a, c), _distance(b, c)) / change
    require(change > 0, "three steps have changed no weight")
    away = f"the resumed run is {off:.2g} of the change from an undisturbed one, two of which are {apart:.2g} apart"
    require(off <= (APART if apart else 0), away)
    same = "the same bytes as without the kill" if off == 0 else f"{off:.2g} of the change from an undisturbed run"
    return {
        "said": f"{same}; two undisturbed runs: {apart:.2g} apart",
        "resumed_apart": off,
        "undisturbed_apart": apart,
    }


def run_whole(machine: Machine, folder: Path) -> None:
    """Train the run in `folder` to its end, from whatever state is there."""
    segment = Segment(
        spec=machine.spec(), base=machine.model, start=0, stop=STEPS, work=folder / "work",
        model_out=folder / "model", state_out=folder / "state", metrics_out=folder / "metrics.parquet", save_every=1,
    )  # fmt: skip
    data, truth = read_training_set(machine.problems, "majority")
    run_segment(segment, data, truth)


def run_and_kill(machine: Machine, folder: Path) -> None:
    """The same in a process that kills itself when it has written half of the second state's last file."""
    whole, saves = DeepSpeedEngine.snapshot, []

    def snapshot(self: DeepSpeedEngine, target: Path) -> Callable[[], list[Path]]:
        write = whole(self, target)
        saves.append(target)

        def torn() -> list[Path]:
            files = write()
            if len(saves) == TORN:
                os.truncate(files[-1], files[-1].stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return files

        return torn

    DeepSpeedEngine.snapshot = snapshot  # type: ignore[method-assign]
    run_whole(machine, folder)
    raise SrtError("the run has ended without its second save")


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The norm of the difference over all tensors, in float64."""
    return float(sum((a[name].double() - b[name].double()).square().sum() for name in a) ** 0.5)
