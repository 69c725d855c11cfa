"""What a run does when its collapse alarm rings: nothing, end for good, or continue on offline labels (key `on_alarm`).

An alarm that changes training does not rely on log files. Its state at the end of a segment is in that segment's
checksummed progress.json, and the rows since then belong to the state that is resumed. So a chain of segments, killed
anywhere, is one long run. All ranks see the same rows (means over gathered groups) and make the same decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srt.common.io import read_json
from srt.config.runs import AlarmAction
from srt.metrics.alarm import Alarm, AlarmRule


def action_of(spec: Mapping[str, Any]) -> AlarmAction | None:
    """The action of a run's spec; None for a run whose alarm only rings."""
    return spec["on_alarm"]["action"] if "on_alarm" in spec else None


class ActingAlarm:
    """The alarm of a run that may act on it.

    `restore` and `update` return the action when it is due, once per attempt: when the alarm rings, or when training
    resumes from a state in which it has already rung.

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
