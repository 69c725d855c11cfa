"""The collapse alarm: it reads the training metrics, needs no true answers, and rings once.

Self-training collapses when agreement stops meaning correctness (paper Fig. 3): responses drift far from the base
model, skip the reasoning, or give the same answer to every prompt, while the pseudo-reward keeps rising. Each of these
shows in metrics that depend on the votes and the policy alone. True answers enter only `accuracy_fall` and
`evaluate_alarm`, which judge the alarm afterwards.

The alarm does not read `reward` and `entropy`. Under majority voting the reward is `majority_ratio`; other rewards
need labels or are not comparable. Entropy also falls in every successful run, so it does not tell a collapse apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.config.alarm import AlarmRule

COLUMNS = ("step", "majority_ratio", "top_majority_share", "kl", "response_length")


@dataclass
class Alarm:
    """The rule, applied to one step at a time in the order of the steps.

    After a resume, feed it the earlier rows again or restore its `state`. `rang` is the step at which the alarm rang,
    or None; `sign` names the condition that made it ring.
    """

    rule: AlarmRule = field(default_factory=AlarmRule)
    rang: int | None = None
    sign: str | None = None
    _first: list[tuple[float, float, float]] = field(default_factory=list)
    _held: dict[str, int] = field(default_factory=dict)

    def update(self, row: Mapping[str, Any]) -> bool:
        """Take one row of the metrics; True at the one step at which the alarm rings.

        A NaN (null in metrics.jsonl) shows no sign and is left out of the baseline.
        """
        if self.rang is not None:
            return False
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise SrtError(
                f"the collapse alarm needs the metric '{missing[0]}', which these metrics lack: train the run again "
                "with this version"
            )
        agreement, share, kl, length = (math.nan if row[x] is None else float(row[x]) for x in COLUMNS[1:])
        if len(self._first) < self.rule.baseline:
            self._first.append((agreement, share, length))
            return False
        signs = self._signs(agreement, share, kl, length)
        for name, shown in signs.items():
            self._held[name] = self._held.get(name, 0) + 1 if shown else 0
        ringing = [name for name in signs if self._held[name] >= self.rule.patience]
        if ringing:
            self.rang, self.sign = int(row["step"]), ringing[0]
        return bool(ringing)

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on, except the rule, as JSON values."""
        state = asdict(self)
        return {name.lstrip("_"): state[name] for name in ("rang", "sign", "_first", "_held")}

    @classmethod
    def restored(cls, rule: AlarmRule, state: Mapping[str, Any]) -> Alarm:
        """The alarm in a saved `state`, as if it had read the rows that led to it."""
        return cls(rule, state["rang"], state["sign"], [tuple(row) for row in state["first"]], dict(state["held"]))

    def _signs(self, agreement: float, share: float, kl: float, length: float) -> dict[str, bool]:
        """Which signs this step shows. Comparisons with NaN are False."""
        rule = self.rule
        agreement_0, share_0, length_0 = (_mean(column) for column in zip(*self._first, strict=True))
        risen = agreement >= rule.agreement_high or agreement >= agreement_0 + rule.agreement_rise
        alike = share >= rule.one_answer and share >= rule.one_answer_growth * share_0
        return {
            "one answer": risen and alike,
            "drift": risen and kl >= rule.drift,
            "shortcut": risen and length <= rule.shortcut * length_0,
        }


def _mean(values: tuple[float, ...]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def collapse_alarm(frame: pd.DataFrame, rule: AlarmRule | None = None) -> int | None:
    """The step at which the alarm rings on a run's metrics, None if it does not.

    The result is that of feeding the rows to `Alarm` during training: step t depends on the rows up to t only.
    """
    alarm = Alarm(rule or AlarmRule())
    for row in frame.to_dict("records"):
        if alarm.update(row):
            break
    return alarm.rang


def accuracy_fall(
    frame: pd.DataFrame, column: str = "true_accuracy", window: int = 7, share: float = 0.5, least: float = 0.05
) -> int | None:
    """The step at which the true accuracy falls for good, or None. It looks ahead, so it can only judge afterwards.

    A_t is the mean of the `window` rows around row t (fewer at the ends), B_t the largest A up to t. The fall is the
    first row t with A_t <= share * B_t and A_t <= B_t - least, after which no later A exceeds share * B_t.

    Args:
        frame: rows with `step` and `column`, e.g. metrics, or evaluations of checkpoints with `window` 1.
    """
    known = frame[["step", column]].dropna()
    means = known[column].rolling(window, center=True, min_periods=1).mean().to_numpy(dtype=float)
    for t, best in enumerate(np.maximum.accumulate(means)):
        if means[t] <= best - least and means[t:].max() <= share * best:
            return int(known["step"].iloc[t])
    return None


@dataclass(frozen=True)
class AlarmResult:
    """How the alarm did on one run: the steps of the alarm and of the fall, each None if it did not happen.

    `lead` = fall - alarm in steps, positive if the alarm rang first; None unless both happened. `false_alarm`: it rang
    without a fall, or more than `horizon` steps before one. `missed`: the accuracy fell and the alarm never rang.
    """

    alarm: int | None
    fall: int | None
    horizon: int

    @property
    def lead(self) -> int | None:
        """Steps from the alarm to the fall."""
        return None if self.alarm is None or self.fall is None else self.fall - self.alarm

    @property
    def false_alarm(self) -> bool:
        """Whether the alarm was false: it rang more than `horizon` steps before a fall, or without one."""
        return self.alarm is not None and (self.lead is None or self.lead > self.horizon)

    @property
    def missed(self) -> bool:
        """Whether the accuracy fell without an alarm."""
        return self.fall is not None and self.alarm is None


def evaluate_alarm(
    frame: pd.DataFrame, step_of_accuracy_fall: int | None, rule: AlarmRule | None = None, horizon: int = 50
) -> AlarmResult:
    """Compare the alarm on a run's metrics with the fall of its accuracy (`accuracy_fall`, or from a test set)."""
    return AlarmResult(collapse_alarm(frame, rule), step_of_accuracy_fall, horizon)
