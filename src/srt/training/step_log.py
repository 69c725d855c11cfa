"""What a user sees of a running segment: a bar or log lines, JSON lines and curves, the collapse alarm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srt.artefacts.paths import METRICS_FILE
from srt.common.progress import is_terminal, log, progress_bar
from srt.metrics.alarm import COLUMNS, Alarm
from srt.training.alarm_action import action_of
from srt.training.segment import Segment
from srt.training.tracking import Eta, Tracker, logged_rows, postfix, summary


class StepLog:
    """Shows and logs the steps of a segment; only rank 0 does.

    Args:
        history: rows of the steps of this segment that a resumed state holds.
        step: the resumed step. It is later than the last row where the run has ended before.
        main: whether this is rank 0.
    """

    def __init__(self, segment: Segment, history: list[dict[str, Any]], step: int, main: bool) -> None:
        self.run, self.stop, self.main = segment.spec["run"], segment.stop, main
        self.alarm_only_rings = action_of(segment.spec) is None  # else srt.training.run says so
        folder = segment.logs or segment.work
        step = int(history[-1]["step"]) if history else step
        self.alarm = Alarm(segment.alarm)
        if main:
            for row in _earlier_rows(folder / METRICS_FILE, segment.start if history else step):
                self.alarm.update(row)
            for row in history:
                self.alarm.update(row)
        self.tracker = Tracker(folder, history, step, main, segment.trackers, segment.spec)
        self.eta = Eta(segment.stop)
        self.bar = progress_bar(
            total=segment.stop, initial=step, desc=self.run, unit="step", disable=not (main and is_terminal())
        )

    def write(self, row: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Show and log one more step."""
        if not self.main:
            return
        step = int(row["step"])
        self.tracker.write(row, timing)
        left = self.eta.update(step, timing["seconds"])
        self.bar.update()
        self.bar.set_postfix(postfix(row, timing, left))
        if not is_terminal():
            log(summary(self.run, self.stop, row, timing, left))
        if row["skipped"]:
            log(f"{self.run} step {step}: a gradient is not finite, its update was skipped")
        if self.alarm_only_rings and self.alarm.update(row):
            log(f"{self.run} step {step}: the collapse alarm rings ({self.alarm.sign}): see docs/monitors.md")

    def close(self) -> None:
        """Close the bar and the files."""
        self.bar.close()
        self.tracker.close()


def _earlier_rows(path: Path, last: int) -> Iterator[dict[str, float]]:
    """The rows up to step `last` that earlier segments have logged."""
    for row in logged_rows(path, needs=COLUMNS):
        if row["step"] <= last:
            yield {k: math.nan if v is None else v for k, v in row.items()}
