"""What a run does when its collapse alarm rings: nothing, end for good, or go on with offline labels (key `on_alarm`).

This alarm changes training, so it trusts no log: its state at the end of a segment is in that segment's checksummed
progress.json, and the rows since then are those of the state that is gone on from. So a chain of segments, killed
anywhere, is one long run. All ranks see the same rows (they are means over gathered groups) and decide alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srt.common.errors import SrtError
from srt.common.io import read_json
from srt.common.progress import log
from srt.metrics.alarm import Alarm, AlarmRule

if TYPE_CHECKING:
    from srt.training.segment import Segment
    from srt.training.trainer import Trainer


def action_of(spec: Mapping[str, Any]) -> str | None:
    """`stop`, `offline_labels`, or None for a run whose alarm only rings."""
    return spec["on_alarm"]["action"] if "on_alarm" in spec else None


def rule_of(segment: Segment) -> AlarmRule:
    """The rule of a run's alarm: its spec's where the alarm acts, so that another one trains it again."""
    action = segment.spec.get("on_alarm")
    return AlarmRule(**action["rule"]) if action else segment.alarm


class Reaction:
    """A run's alarm and what comes of it.

    Args:
        segment: what is trained; `segment.resume` holds the alarm's state at `segment.start`.
        trainer: is switched to offline labels when it is time.
        metrics: rows of this segment that are already taken ([] unless an interrupted attempt is gone on with).

    `ended`: no further step is to be taken, in this segment and in all later ones.
    """

    def __init__(self, segment: Segment, trainer: Trainer, metrics: Sequence[Mapping[str, Any]]) -> None:
        self.run, self.action, self.ended = segment.spec["run"], action_of(segment.spec), False
        self.trainer, self.alarm = trainer, Alarm(rule_of(segment))
        if self.action is None:
            return
        if self.action == "offline_labels":
            self._check_labels()
        if segment.resume is not None:
            state = read_json(segment.resume / "progress.json")["alarm"]
            self.alarm = Alarm.restored(self.alarm.rule, state)
            if self.alarm.rang is not None:
                self._act()
        for row in metrics:
            self.update(row)

    def update(self, row: Mapping[str, Any]) -> None:
        """Take one more step's metrics, and act if the alarm rings on them."""
        if self.action is not None and self.alarm.update(row):
            self._act()

    def progress(self) -> dict[str, Any]:
        """What a state has to hold of it: nothing for a run whose alarm only rings."""
        return {} if self.action is None else {"alarm": self.alarm.state()}

    def _act(self) -> None:
        trainer = self.trainer
        rang = f"{self.run}: the collapse alarm rang at step {self.alarm.rang} ({self.alarm.sign}, docs/monitors.md)"
        if self.action == "stop":
            self.ended = True
            said = f"{rang}: training ended there, later checkpoints have these weights (on_alarm: stop)"
        else:
            usable = self._labelled()
            said = f"{rang}: from there on the labels are the teacher's (on_alarm: offline_labels)"
            if left_out := len(trainer.usable) - len(usable):
                said += f"; {left_out} prompts without one are left out"
            # from here on everything is as in a run with this reward, the order of its prompts included
            trainer.spec = {**trainer.spec, "reward": "offline_labels"}
            trainer.data, trainer.usable = trainer.data.after_alarm(), usable
        if trainer.world.main:
            log(said)

    def _labelled(self) -> list[int]:
        """The usable prompts that have a later label."""
        data = self.trainer.data.after_alarm()
        return [i for i in self.trainer.usable if data.has_label(i)]

    def _check_labels(self) -> None:
        """Refuse at the start what would only fail when the alarm rings."""
        if self.trainer.data.later is None:
            raise SrtError(f"runs: {self.run}: on_alarm: offline_labels needs --labels: the labels rule's table")
        size, found = self.trainer.train["prompts_per_step"], len(self._labelled())
        if found < size:
            raise SrtError(
                f"runs: {self.run}: on_alarm: offline_labels: only {found} usable prompts have a label for "
                f"prompts_per_step={size}: lower it or use a larger data set"
            )
