"""Training rewards of a group of responses, and the monitors that may look at true answers.

The two are kept apart on purpose. `training_rewards` receives the labels that the method is allowed to see: true
answers for ground truth, stored labels for offline labels, nothing for majority voting (SRT). `Monitor` receives the
true answers and never feeds anything back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srt.answers import Grader, Vote

LABEL_FREE = frozenset({"majority", "offline_labels"})


@dataclass(frozen=True)
class GroupRewards:
    """Rewards of G groups of n responses.

    `kind` as in `training_rewards`; `rewards` float64 [G, n]; `labels` [G] what each group was graded against;
    `votes` [G]; `labelled` bool [G]: False where there is no label, because no response of the group had an answer.
    """

    kind: str
    rewards: np.ndarray
    labels: list[str | None]
    votes: list[Vote]
    labelled: np.ndarray

    @property
    def pseudo_labels(self) -> list[str | None]:
        """What a method without true answers would train on: the labels used, or, under ground truth, the majority."""
        return [vote.majority for vote in self.votes] if self.kind == "ground_truth" else self.labels


def training_rewards(
    kind: str,
    grader: Grader,
    groups: Sequence[Sequence[str]],
    labels: Sequence[str | None] | None,
    tasks: Sequence[str],
) -> GroupRewards:
    """Reward 1 for each response that agrees with its group's label, else 0 (paper Eq. 6 for majority).

    Args:
        kind: `majority` ignores `labels`, which must be None; `ground_truth` and `offline_labels` need them.
        groups: G groups of n response texts. tasks: G task names, which say how answers are compared.
    """
    votes = grader.vote(groups, tasks=tasks)
    if kind == "majority":
        if labels is not None:
            raise ValueError("majority voting must not be handed labels")
        used = [vote.majority for vote in votes]
    elif labels is None:
        raise ValueError(f"reward '{kind}' needs labels")
    else:
        used = list(labels)
    verdicts = grader.verify(groups, used, tasks=tasks)
    rewards = np.array([[float(v.correct) for v in group] for group in verdicts])
    return GroupRewards(kind, rewards, used, votes, np.array([label is not None for label in used], dtype=bool))


class Monitor:
    """Per-group statistics for the log; `truth` maps problem ids to true answers (empty: truth is not known)."""

    def __init__(self, grader: Grader, truth: dict[str, str]) -> None:
        self.grader = grader
        self.truth = truth

    def observe(
        self, ids: Sequence[str], groups: Sequence[Sequence[str]], given: GroupRewards, tasks: Sequence[str]
    ) -> list[dict[str, float]]:
        """One row a group: reward, true_accuracy, reward_accuracy, label_accuracy, majority_ratio, parsed_rate.

        Where the true answer is not known the accuracies are nan.
        """
        truths = [self.truth.get(i) for i in ids]
        verdicts = self.grader.verify(groups, truths, tasks=tasks)
        labels = self.grader.verify_answers(given.pseudo_labels, truths, tasks=tasks)
        rows = []
        for g, vote in enumerate(given.votes):
            known = truths[g] is not None
            true = np.array([float(v.correct) for v in verdicts[g]])
            reward = given.rewards[g]
            rows.append(
                {
                    "reward": float(reward.mean()),
                    "true_accuracy": float(true.mean()) if known else float("nan"),
                    "reward_accuracy": float((true == reward).mean()) if known else float("nan"),
                    "label_accuracy": float(labels[g].correct) if known else float("nan"),
                    "majority_ratio": vote.consistency_all,
                    "parsed_rate": vote.parsed / len(groups[g]),
                }
            )
        return rows
