"""Files and numbers about a running segment: JSON lines, the curves of trackers, the time of each phase.

Two kinds of numbers are kept apart: metrics, which repeat bit for bit (`metrics.jsonl`), and measurements of this
machine, which never do (`timing.jsonl`). Only rank 0 writes. Nothing here feeds back into training.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from srt.artefacts.paths import METRICS_FILE
from srt.common.atomic_files import set_aside
from srt.common.io import write_text
from srt.common.progress import log
from srt.config.train import TRACKERS, TrackerName
from srt.cost.hardware import mfu, synchronize
from srt.training.trackers import Trackers

TIMING_FILE = "timing.jsonl"


class PhaseTimer:
    """Seconds of each phase of a step, a GPU's pending work included; phases may nest, each second counts once.

    with timer("rollout"): ...
    with timer("update"): ...
    phases = timer.lap()          # {"rollout": 1.9, "update": 0.6}, and zero again
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of the block for `phase` and not for the phase around it."""
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Add the time since the last change to the innermost open phase."""
        synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            phase = self._open[-1]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def lap(self) -> dict[str, float]:
        """The phases since the last lap, in the order in which they first ended; starts the next step's count."""
        if self._open:
            raise RuntimeError(f"phase '{self._open[-1]}' is still open")
        done, self.seconds = self.seconds, {}
        return done


class Eta:
    """Time left, from the mean of the last `window` steps, so that the warm-up soon stops counting."""

    def __init__(self, stop: int, window: int = 10) -> None:
        self.stop = stop
        self.recent: deque[float] = deque(maxlen=window)

    def update(self, step: int, seconds: float) -> float:
        """Seconds left after `step` (1-based), which took `seconds`."""
        self.recent.append(seconds)
        return (self.stop - step) * sum(self.recent) / len(self.recent)


def peak_memory(device: torch.device | str) -> int:
    """Peak bytes: on a GPU of tensors since the last call, on a CPU of this process since its start."""
    device = torch.device(device)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(peak)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux


def timing_row(
    step: int, seconds: float, phases: Mapping[str, float], *, tokens: int, response_tokens: int,
    processed_tokens: int, flops: float, peak: float, memory: int, update: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """One line of `timing.jsonl`.

    Args:
        step: the step (1-based) and the `seconds` of all of it. phases: from `PhaseTimer.lap`.
        tokens: prompt and response tokens of the step, every sequence with its own prompt, over all ranks.
        response_tokens: those that are trained on. processed_tokens: those of the forward pass, padding included.
        flops: model FLOPs of the update (`srt.cost.flops.update_flops`), of all ranks; NaN where not counted.
        peak: FLOP/s of all devices together; NaN where unknown. memory: bytes, the largest rank's.
        update: the phases of the update, whose time its rates divide by.

    Returns step, seconds, seconds_{phase} for each phase, tokens_per_second (of the whole step),
    rollout_tokens_per_second (response tokens), update_tokens_per_second, padding_efficiency, mfu, peak_memory.
    """
    updating = sum(phases.get(name, 0.0) for name in update)
    return {
        "step": step,
        "seconds": seconds,
        **{f"seconds_{name}": value for name, value in phases.items()},
        "tokens_per_second": _rate(tokens, seconds),
        "rollout_tokens_per_second": _rate(response_tokens, phases.get("rollout", 0.0)),
        "update_tokens_per_second": _rate(tokens, updating),
        "padding_efficiency": _rate(tokens, processed_tokens),
        "mfu": mfu(flops, updating, peak),
        "peak_memory": memory,
    }


def _rate(amount: float, over: float) -> float:
    return amount / over if over > 0 else math.nan


def duration(seconds: float) -> str:
    """`h:mm:ss`; hours are not folded into days."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def postfix(row: Mapping[str, float], timing: Mapping[str, float], eta: float) -> dict[str, str]:
    """What a terminal's bar shows behind the step."""
    return {
        "reward": f"{row['reward']:.3f}",
        "kl": f"{row['kl']:.4f}",
        "eta": duration(eta),
        "tok/s": f"{timing['tokens_per_second']:.0f}",
    }


def summary(run: str, stop: int, row: Mapping[str, float], timing: Mapping[str, float], eta: float) -> str:
    """One line per step for a log."""
    used = f" mfu {timing['mfu']:.2f}" if not math.isnan(timing["mfu"]) else ""
    return (
        f"{run} step {int(row['step'])}/{stop} reward {row['reward']:.3f} kl {row['kl']:.4f} "
        f"length {row['response_length']:.0f} {timing['seconds']:.1f} s/step "
        f"{timing['tokens_per_second']:.0f} tok/s{used} eta {duration(eta)}"
    )


class Tracker:
    """The log files of one run or segment; does nothing on ranks other than 0.

    {folder}/metrics.jsonl   one line per step; a resumed run's file equals the uninterrupted one's
    {folder}/timing.jsonl    one line per step; complete up to the resumed step, then this attempt's times
    {folder}/tensorboard/    both as scalars, and what other trackers write (`srt.training.trackers`)

    Values that are not finite are null, as JSON has no nan; the parquet tables keep them.

    Args:
        history: rows of the steps that the resumed state holds, in order ([] for a fresh start). They replace the
            file's lines of these steps. Lines before them, of earlier segments, stay; lines after them, of steps that a
            kill undid, are removed.
        step: the resumed step (0: none); with `history`, the step of its last row.
        main: whether this is rank 0.
        trackers: which trackers draw curves. spec: the run's spec, for those that show it.
    """

    def __init__(
        self, folder: Path, history: Sequence[Mapping[str, Any]], step: int, main: bool,
        trackers: Sequence[TrackerName] = TRACKERS, spec: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if history and int(history[-1]["step"]) != step:
            raise ValueError(f"history ends at step {history[-1]['step']}, the state is of step {step}")
        self.main = main
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        first = int(history[0]["step"]) if history else step + 1
        _rewrite(folder / METRICS_FILE, first - 1, [_line(row) for row in history])
        _rewrite(folder / TIMING_FILE, step, [])
        self.files = {name: open(folder / name, "a", encoding="utf-8") for name in (METRICS_FILE, TIMING_FILE)}  # noqa: SIM115
        self.trackers = Trackers(trackers, folder, step, spec or {})

    def write(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one step to all files and flush them to the operating system."""
        if not self.main:
            return
        for name, values in ((METRICS_FILE, row), (TIMING_FILE, timing)):
            self.files[name].write(_line(values) + "\n")
            self.files[name].flush()
        self.trackers.write(row, timing)

    def close(self) -> None:
        """Flush and close the files and the trackers."""
        if self.main:
            for file in self.files.values():
                file.close()
            self.trackers.close()


def _line(row: Mapping[str, Any]) -> str:
    """The line of a row: the step, then the others by name, as a state's history comes back in another order."""
    keys = ["step", *sorted(k for k in row if k != "step")]
    values = {k: None if isinstance(row[k], float) and not math.isfinite(row[k]) else row[k] for k in keys}
    return json.dumps(values, allow_nan=False)


def logged_rows(path: Path, needs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a log of steps, each with the metrics `needs`, without a last line that a kill tore.

    Training does not depend on logs: a damaged log is renamed, one line says so, and it counts as empty.
    """
    try:
        lines = path.read_bytes().decode("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (IsADirectoryError, UnicodeDecodeError):
        return _set_aside(path, "it is not a text file in UTF-8")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break  # torn by a kill
            return _set_aside(path, f"line {number} is not JSON")
        if not _is_row(row, needs):
            return _set_aside(path, f"line {number} is not the row of a step")
        rows.append(row)
    return rows


def _is_row(row: Any, needs: Sequence[str]) -> bool:
    if not isinstance(row, dict) or not {"step", *needs} <= row.keys():
        return False
    whole = isinstance(row["step"], int | float) and row["step"] % 1 == 0
    return whole and all(value is None or isinstance(value, int | float) for value in row.values())


def _set_aside(path: Path, why: str) -> list[dict[str, Any]]:
    log(f"{path} is damaged ({why}): renamed to {set_aside(path).name}, and a new log is started")
    return []


def _rewrite(path: Path, last: int, then: Sequence[str]) -> None:
    """Keep the lines of steps up to `last`, append `then`, remove the rest (a torn last line included)."""
    kept = [json.dumps(row) for row in logged_rows(path) if row["step"] <= last]
    text = "".join(f"{line}\n" for line in [*kept, *then])
    if not path.exists() or text != path.read_text(encoding="utf-8"):
        write_text(path, text)
