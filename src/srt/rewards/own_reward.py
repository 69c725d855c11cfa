"""A reward that is a function of the user: what it is given, and what it must return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from srt.answers import Grader, Vote
from srt.common.errors import SrtError
from srt.common.own_code import is_own, load
from srt.rewards.group_rewards import GroupRewards


class OwnReward:
    """Rewards of groups by a function of the user, called once per group.

    Args:
        reference: `module:function@hash`.
        labels: which labels the run gives it (`reward_labels`); None: none, so it cannot see any.
    """

    def __init__(self, reference: str, labels: str | None) -> None:
        self.name, self.labels = reference.partition("@")[0], labels
        self.function = load("reward", reference)

    def __call__(
        self,
        grader: Grader,
        groups: Sequence[Sequence[str]],
        labels: Sequence[str | None] | None,
        tasks: Sequence[str],
        problems: Sequence[str],
    ) -> GroupRewards:
        """As `srt.rewards.group_rewards.training_rewards`; `problems`: the question of each group.

        Raises:
            SrtError: the function failed, or did not return a finite number per response.
            ValueError: labels for a reward without, or none for one with them.
        """
        if (labels is None) != (self.labels is None):
            raise ValueError(f"reward '{self.name}' {'needs' if labels is None else 'must not be given'} labels")
        votes = grader.vote(groups, tasks=tasks)
        rewards = np.zeros((len(groups), len(groups[0]) if groups else 0))
        for g, (texts, vote) in enumerate(zip(groups, votes, strict=True)):
            given = {"responses": list(texts), "answers": _same(vote), "problem": problems[g], "task": tasks[g]}
            if labels is not None:
                given["label"] = labels[g]
            rewards[g] = self._checked(self.function(**given), len(texts), problems[g])
        known = [vote.majority for vote in votes] if self.labels != "offline_labels" or labels is None else list(labels)
        labelled = np.array([labels is None or label is not None for label in labels or known], dtype=bool)
        return GroupRewards(self.name, rewards, known, votes, labelled)

    def _checked(self, values: object, n: int, problem: str) -> list[float]:
        found = list(values) if isinstance(values, Sequence | np.ndarray) else []
        if len(found) != n or not all(isinstance(v, Real) and math.isfinite(v) for v in found):
            raise SrtError(
                f"reward '{self.name}' must return {n} finite numbers, one per response; for the problem "
                f"{problem[:80]!r} it returned {str(values)[:200]}"
            )
        return [float(v) for v in found]


def _same(vote: Vote) -> list[str | None]:
    """The answers of a group, with one text for all that mean the same; None where there is none."""
    first: dict[int, str | None] = {}
    for answer, place in zip(vote.answers, vote.classes, strict=True):
        first.setdefault(place, answer)
    return [first[place] if place >= 0 else None for place in vote.classes]


def own_reward(name: str, labels: str | None) -> OwnReward | None:
    """The reward of a spec if it is a function of the user."""
    return OwnReward(name, labels) if is_own(name) else None
