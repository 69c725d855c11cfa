"""What ends or changes a run before its last step: its collapse alarm (`on_alarm`), or an accuracy (`stop_at`).

Neither relies on log files. Its state at the end of a segment is in that segment's checksummed progress.json, and the
rows since then belong to the state that is resumed. So a chain of segments, killed anywhere, is one long run. All ranks
see the same rows (means over gathered groups) and make the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from srt.common.io import read_json
from srt.config.runs import AlarmAction
from srt.metrics.alarm import Alarm, AlarmRule


def action_of(spec: Mapping[str, Any]) -> AlarmAction | None:
    """The action of a run's spec; None for a run whose alarm only rings."""
    return spec["on_alarm"]["action"] if "on_alarm" in spec else None


class Watch(Protocol):
    """Reads a run's metrics step by step, and says what is due.

    `restore` and `update` return an action once per attempt: at its step, or when training resumes from a state in
    which that step is past.
    """

    def restore(self, resume: Path | None, metrics: Sequence[Mapping[str, Any]]) -> AlarmAction | None:
        """Take up the state `resume` (None: a fresh start) and the rows of the steps taken since."""

    def update(self, row: Mapping[str, Any]) -> AlarmAction | None:
        """Take one more step's metrics."""

    def progress(self) -> dict[str, Any]:
        """What a state has to keep."""

    def sentence(self) -> str:
        """When and why the action was due."""


def watch_of(spec: Mapping[str, Any]) -> Watch:
    """What a run of this spec watches: an accuracy, or its alarm, which may only ring."""
    return AccuracyGoal(spec) if "stop_at" in spec else ActingAlarm(spec)


class AccuracyGoal:
    """Ends a run on true answers once its mean training accuracy over a window of steps reaches the goal (`stop_at`).

    Steps whose accuracy is unknown (NaN) do not count.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.run, self.goal = spec["run"], spec["stop_at"]
        self.recent: list[float] = []
        self.reached: int | None = None

    def restore(self, resume: Path | None, metrics: Sequence[Mapping[str, Any]]) -> AlarmAction | None:
        """As `Watch`."""
        if resume is not None:
            state = read_json(resume / "progress.json")["stop_at"]
            self.recent, self.reached = list(state["recent"]), state["reached"]
        for row in metrics:
            self.update(row)
        return "stop" if self.reached is not None else None

    def update(self, row: Mapping[str, Any]) -> AlarmAction | None:
        """As `Watch`."""
        accuracy, window = float(row["true_accuracy"]), self.goal["window"]
        if self.reached is not None or math.isnan(accuracy):
            return None
        self.recent = [*self.recent, accuracy][-window:]
        if len(self.recent) < window or sum(self.recent) / window < self.goal["accuracy"]:
            return None
        self.reached = int(row["step"])
        return "stop"

    def progress(self) -> dict[str, Any]:
        """As `Watch`."""
        return {"stop_at": {"recent": self.recent, "reached": self.reached}}

    def sentence(self) -> str:
        """As `Watch`."""
        return (
            f"{self.run}: the accuracy of {self.goal['window']} steps reached {self.goal['accuracy']:g} at step "
            f"{self.reached} (stop_at)"
        )


class ActingAlarm:
    """The alarm of a run that may act on it.

    Args:
        spec: the run's. The spec includes the alarm's rule, since another rule trains another run.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.run, self.action = spec["run"], action_of(spec)
        self.alarm = Alarm(AlarmRule(**spec["on_alarm"]["rule"])) if self.action else Alarm()

    def restore(self, resume: Path | None, metrics: Sequence[Mapping[str, Any]]) -> AlarmAction | None:
        """Take up the alarm of the state `resume` (None: a fresh start) and the rows of the steps taken since."""
        if self.action is None:
            return None
        if resume is not None:
            self.alarm = Alarm.restored(self.alarm.rule, read_json(resume / "progress.json")["alarm"])
        for row in metrics:
            self.alarm.update(row)
        return self.action if self.alarm.rang is not None else None

    def update(self, row: Mapping[str, Any]) -> AlarmAction | None:
        """Take one more step's metrics."""
        return self.action if self.action is not None and self.alarm.update(row) else None

    def progress(self) -> dict[str, Any]:
        """What a state has to keep: the alarm, for a run that acts on it."""
        return {} if self.action is None else {"alarm": self.alarm.state()}

    def sentence(self) -> str:
        """When and why the alarm rang."""
        return f"{self.run}: the collapse alarm rang at step {self.alarm.rang} ({self.alarm.sign}, docs/monitors.md)"
