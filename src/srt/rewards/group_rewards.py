"""Training rewards of groups of responses, and the monitors, which may see true answers.

The two are kept apart on purpose. `training_rewards` gets the labels that the method is allowed to see: true answers
for ground truth, those of a share of the prompts for mixed labels, stored labels for offline labels, none for voting
(SRT). `Monitor` gets the true answers, and nothing of it reaches training. `batch_statistics` needs only votes, so that
a collapse shows without true answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from srt.answers import Grader, Vote
from srt.answers.votes import reaches, soft_shares
from srt.config.preferences import OFFLINE
from srt.config.runs import LABEL_FREE, TRUE_LABELS, VOTING, Reward
from srt.rollout import STOP, Rollout

ONLINE = tuple(reward for reward in get_args(Reward) if reward not in OFFLINE)


@dataclass(frozen=True)
class GroupRewards:
    """Rewards of G groups of n responses.

    `kind` as in `training_rewards`; `rewards` float64 [G, n]; `labels` [G] that the groups were graded against; `votes`
    [G]; `labelled` bool [G]: False for a group without a label, because none of its responses has an answer or its
    majority is below the threshold.
    """

    kind: str
    rewards: np.ndarray
    labels: list[str | None]
    votes: list[Vote]
    labelled: np.ndarray

    @property
    def pseudo_labels(self) -> list[str | None]:
        """The labels [G] of a method without true answers: those used, or the majorities where true ones are used."""
        return [vote.majority for vote in self.votes] if self.kind in TRUE_LABELS else self.labels

    @property
    def unanimous(self) -> np.ndarray:
        """Bool [G]: all rewards of the group are equal, as without a label, so that no response has an advantage."""
        if self.kind == "confidence":  # the rewards are those of the update
            return np.zeros(len(self.votes), dtype=bool)
        return np.asarray((self.rewards == self.rewards[:, :1]).all(axis=1))


def is_cut(rollout: Rollout) -> bool:
    """Whether a response was cut at the maximum length, so that its end is unknown."""
    return rollout.finish_reason != STOP


def without_cut(texts: Sequence[Sequence[str]], groups: Sequence[Sequence[Rollout]]) -> list[list[str]]:
    """The texts [G, n] with those of cut responses empty: they have no answer, so no vote and reward 0."""
    return [
        ["" if is_cut(rollout) else text for text, rollout in zip(row, group, strict=True)]
        for row, group in zip(texts, groups, strict=True)
    ]


def overlong_punishment(groups: Sequence[Sequence[Rollout]], limit: int, cache: int) -> np.ndarray:
    """What soft overlong punishment adds to the rewards [G, n] (DAPO, arXiv 2503.14476, Eq. 13).

    With T tokens, the end token included: 0 up to T = limit - cache, then (limit - cache - T) / cache, down to -1.
    """
    tokens = np.array([[len(rollout.token_ids) for rollout in group] for group in groups], dtype=float)
    return np.asarray(np.clip((limit - cache - tokens) / cache, -1.0, 0.0))


def training_rewards(
    kind: str,
    grader: Grader,
    groups: Sequence[Sequence[str]],
    labels: Sequence[str | None] | None,
    tasks: Sequence[str],
    threshold: float = 0.0,
) -> GroupRewards:
    """The reward of each response, by the label of its group.

    - `ground_truth`, `offline_labels`: 1 if the response agrees with its group's label, else 0.
    - `majority`: the same with the group's majority answer as the label (paper Eq. 6).
    - `soft_majority`: the share of the group's answers that are the response's own, 0 without an answer.
    - `mixed_labels`: as `ground_truth` for the groups that are given a label, as `majority` for the others.
    - `confidence`: 0 for all; the update adds the policy's own confidence (`srt.training.objectives.PolicyObjective`).
      The majorities are noted for the monitors.

    Args:
        kind: one of the six.
        groups: G groups of n response texts.
        labels: [G]; None for the kinds that see none.
        tasks: G task names, which decide how answers are compared.
        threshold: a group that votes has no label, and reward 0, unless at least this share of all n responses
            agrees with the majority.
    """
    if kind not in ONLINE:
        raise ValueError(f"unknown reward '{kind}': use one of {', '.join(ONLINE)}")
    votes = grader.vote(groups, tasks=tasks)
    if kind in LABEL_FREE and labels is not None:
        raise ValueError(f"reward '{kind}' must not be given labels")
    if kind == "confidence":
        majorities = [vote.majority for vote in votes]
        zeros = np.zeros((len(groups), len(groups[0]) if groups else 0))
        return GroupRewards(kind, zeros, majorities, votes, np.ones(len(groups), dtype=bool))
    if kind not in LABEL_FREE and labels is None:
        raise ValueError(f"reward '{kind}' needs labels")
    used = [None] * len(votes) if labels is None else list(labels)
    if kind in (*VOTING, "mixed_labels"):
        voted = [vote.majority if reaches(vote, threshold, of_all=True) else None for vote in votes]
        used = [own if given is None else given for given, own in zip(used, voted, strict=True)]
    labelled = np.array([label is not None for label in used], dtype=bool)
    if kind == "soft_majority":
        rewards = np.array([soft_shares(vote) for vote in votes]) * labelled[:, None]
    else:
        verdicts = grader.verify(groups, used, tasks=tasks)
        rewards = np.array([[float(v.correct) for v in group] for group in verdicts])
    if not groups:  # a rank may have none of a short batch
        rewards = np.zeros((0, 0))
    return GroupRewards(kind, rewards, used, votes, labelled)


def batch_statistics(majorities: Sequence[str | None], unanimous: Sequence[bool]) -> dict[str, float]:
    """Signs of a collapse in the votes of one step, without any true answer.

    Args:
        majorities: the majority answer of each prompt of the step, over all processes; None without any answer.
            Different spellings are different answers.
        unanimous: `GroupRewards.unanimous` of the same prompts.

    Returns, as shares of the prompts (nan without prompts):
        distinct_majority: number of distinct majority answers / prompts; it falls to 1 / prompts when the model gives
            one answer to everything, and low values are normal only if the true answers repeat;
        top_majority_share: prompts whose majority answer is the most common one;
        unanimous_rate: prompts whose rewards are all equal, which only the KL and the entropy bonus train.

    >>> batch_statistics(["1", "1", "7", None], [True, False, False, False])
    {'distinct_majority': 0.5, 'top_majority_share': 0.5, 'unanimous_rate': 0.25}
    """
    prompts = len(majorities)
    if prompts != len(unanimous):
        raise ValueError("give one majority and one flag per prompt")
    if not prompts:
        return dict.fromkeys(("distinct_majority", "top_majority_share", "unanimous_rate"), float("nan"))
    counts = Counter(m for m in majorities if m is not None)
    return {
        "distinct_majority": len(counts) / prompts,
        "top_majority_share": max(counts.values(), default=0) / prompts,
        "unanimous_rate": sum(map(bool, unanimous)) / prompts,
    }


class Monitor:
    """Statistics of each group for the log; `truth` maps problem ids to true answers, as far as they are known."""

    def __init__(self, grader: Grader, truth: dict[str, str]) -> None:
        self.grader = grader
        self.truth = truth

    def observe(
        self, ids: Sequence[str], groups: Sequence[Sequence[str]], rewards: GroupRewards, tasks: Sequence[str]
    ) -> list[dict[str, float]]:
        """One row per group: reward, true_accuracy, reward_accuracy, label_accuracy, majority_ratio, parsed_rate.

        The accuracies are nan where the true answer is not known.
        """
        truths = [self.truth.get(i) for i in ids]
        verdicts = self.grader.verify(groups, truths, tasks=tasks)
        labels = self.grader.verify_answers(rewards.pseudo_labels, truths, tasks=tasks)
        rows = []
        for g, vote in enumerate(rewards.votes):
            known = truths[g] is not None
            judged = known and rewards.kind != "confidence"  # which calls no response right or wrong
            true = np.array([float(v.correct) for v in verdicts[g]])
            reward = rewards.rewards[g]
            rows.append(
                {
                    "reward": float(reward.mean()),
                    "true_accuracy": float(true.mean()) if known else float("nan"),
                    "reward_accuracy": float((true == reward).mean()) if judged else float("nan"),
                    "label_accuracy": float(labels[g].correct) if known else float("nan"),
                    "majority_ratio": vote.consistency_all,
                    "parsed_rate": vote.parsed / len(groups[g]),
                }
            )
        return rows
