"""Runs the parts of a check in processes that a fault of the GPU may end.

Parts share a process until one dies or needs a fresh one. The process that starts them uses no GPU itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import srt
from srt.cluster.launch import SEGMENTS
from srt.gpu_check.parts import FAIL, IMPOSSIBLE, Verdict
from srt.gpu_check.random_model import SIZES
from srt.gpu_check.registry import PARTS
from srt.gpu_check.report import Report
from srt.gpu_check.steps import work_fits

POLL_SECONDS = 0.1
LOOK = "import torch, json; p = torch.cuda.get_device_properties(0); print(json.dumps([p.name, p.total_memory]))"


def look() -> tuple[str, float]:
    """Name and memory in bytes of the first GPU, "" and 0 without one; asked in a process that ends and frees it."""
    import torch

    if not torch.cuda.is_available():
        return "", 0.0
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    name, size = json.loads(done.stdout.splitlines()[-1])
    return str(name), float(size)


def fitting_size(gpu_bytes: float) -> str:
    """The largest size of at most 1.5b whose training fits a GPU of this memory; tiny without a GPU."""
    return next((name for name in ("1.5b", "135m") if work_fits(SIZES[name], gpu_bytes)), "tiny")


class Check:
    """A check of one machine.

    Args:
        gpu: name of the card, "" without one.
        minutes: of the whole check. No part starts later, and one that still runs then has failed.
        tell: called with each verdict.
    """

    def __init__(self, size: str, gpu: str, minutes: float, tell: Callable[[Verdict], object]) -> None:
        self.report, self.gpu, self.tell = Report(size, gpu), gpu, tell
        self.minutes, self.end = minutes, time.monotonic() + 60 * minutes

    def run(self, names: Sequence[str]) -> Report:
        """Run these parts in their order."""
        with tempfile.TemporaryDirectory(prefix="srt-gpu-check-") as name:
            todo = list(names)
            while todo:
                if time.monotonic() > self.end:
                    self._add(Verdict(todo.pop(0), IMPOSSIBLE, f"{self.minutes:g} minutes were over: raise --minutes"))
                    continue
                todo = todo[self._process(Path(name), self._together(todo)) :]
        return self.report

    def _together(self, todo: list[str]) -> list[str]:
        """The next parts that may share a process."""
        alone = [bool(self.gpu) and PARTS[name].fresh for name in todo]
        return todo[:1] if alone[0] else todo[: alone.index(True)] if True in alone else todo

    def _add(self, verdict: Verdict) -> None:
        self.report.verdicts.append(verdict)
        self.tell(verdict)

    def _process(self, folder: Path, names: list[str]) -> int:
        """Run parts in one process until it ends; return how many have a verdict then."""
        results, log = folder / "results.jsonl", folder / "log"
        results.write_text("", encoding="utf-8")
        source = str(Path(srt.__file__).parents[1])
        environment = SEGMENTS | os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        size = self.report.size
        words = [sys.executable, "-m", "srt.gpu_check", "--parts", str(results), str(folder), size, *names]
        began, told, late = time.monotonic(), 0, False
        with open(log, "w", encoding="utf-8") as handle:
            process = subprocess.Popen(words, stdout=handle, stderr=handle, env=environment, start_new_session=True)
            try:
                while True:
                    code = process.poll()  # before the results are read, so that none is missed
                    started, verdicts = _read(results)
                    if started and not self.report.startup_seconds:
                        self.report.startup_seconds = time.monotonic() - began
                    for verdict in verdicts[told:]:
                        self._add(verdict)
                    told = len(verdicts)
                    if code is not None:
                        break
                    late = time.monotonic() > self.end
                    if late:
                        break
                    time.sleep(POLL_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
                    process.wait()
        said = log.read_text(encoding="utf-8", errors="replace")
        self.report.log += said
        if told < len(names):
            last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
            why = f"it still ran when {self.minutes:g} minutes were over: raise --minutes, or it hangs"
            why = why if late else f"its process ended with {code}: {last[-200:]}"
            self._add(Verdict(names[told], FAIL, why, round(time.monotonic() - began, 1)))
            told += 1
        return told


def _read(results: Path) -> tuple[bool, list[Verdict]]:
    """Whether a part has begun, and the verdicts so far; a last line that is not complete is left out."""
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return bool(found), [Verdict(**line) for line in found if "part" in line]
