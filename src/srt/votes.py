"""What follows from votes: thresholds, soft shares and the monitors of self-labelling (TTRL's metrics).

Pure functions of `srt.answers.Vote` and verdicts; no extraction, no comparison. Offline labels and the curriculum
orders are columns of the groups table (`srt.selection`), avg@k, maj@k and pass@k are in `srt.scoring`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from srt.answers import Verdict, Vote


def soft_shares(vote: Vote) -> tuple[float, ...]:
    """Each response's reward under soft majority: its class's share of the parsed answers, 0 without an answer.

    Answers ["5", "5", "6", none] give (2/3, 2/3, 1/3, 0).
    """
    counts = Counter(c for c in vote.classes if c >= 0)
    return tuple(counts[c] / vote.parsed if c >= 0 else 0.0 for c in vote.classes)


def reaches(vote: Vote, threshold: float, of_all: bool = False) -> bool:
    """Whether a prompt gets a pseudo-label: it has a majority whose consistency is at least `threshold`.

    The consistency's denominator is the parsed answers, or all responses with `of_all`. Counts are small integers, so
    1e-9 of slack makes 24/32 reach 0.75 and nothing else.
    """
    share = vote.consistency_all if of_all else vote.consistency
    return vote.majority is not None and share >= threshold - 1e-9


def majority_rewards(vote: Vote) -> tuple[float, ...]:
    """Equation 6 by class: 1 for the responses whose answer is the majority's, else 0."""
    return tuple(float(c >= 0 and c == vote.majority_class) for c in vote.classes)


def distinct(vote: Vote) -> int:
    """Number of answer classes."""
    return len({c for c in vote.classes if c >= 0})


def reasons(votes: Sequence[Vote]) -> dict[str, int]:
    """How many responses have an answer ("ok") or lack one, by reason, sorted by name."""
    return dict(sorted(Counter(reason for vote in votes for reason in vote.reasons).items()))


def self_label_metrics(
    votes: Sequence[Vote],
    pseudo: Sequence[Sequence[float]],
    truth: Sequence[Sequence[Verdict]],
    majority_truth: Sequence[Verdict],
) -> dict[str, float]:
    """TTRL's monitors (ttt_metrics.py), as means over prompts; NaN without prompts.

    `pseudo[p][i]` is the training reward of response i of prompt p, `truth[p][i]` its verdict against the true answer,
    `majority_truth[p]` the majority's. Returns

    - label_accuracy: share of prompts whose majority is right (no majority is wrong);
    - reward_accuracy: share of responses whose pseudo-reward equals their true reward;
    - majority_ratio: majority count over all responses;
    - ground_truth_ratio: share of responses that are right (the pass rate);
    - majority_voting_reward: mean pseudo-reward;
    - pass_at_n: share of prompts with at least one right response;
    - parsed_rate: share of responses with an answer.
    """
    if not len(votes) == len(pseudo) == len(truth) == len(majority_truth):
        raise ValueError("one vote, one list of rewards, one list of verdicts and one majority verdict a prompt")
    names = (
        "label_accuracy", "reward_accuracy", "majority_ratio", "ground_truth_ratio", "majority_voting_reward",
        "pass_at_n", "parsed_rate",
    )  # fmt: skip
    rows = []
    for vote, rewards, verdicts, majority in zip(votes, pseudo, truth, majority_truth, strict=True):
        n = len(vote.answers)
        right = [float(v.correct) for v in verdicts]
        if not n == len(rewards) == len(right):
            raise ValueError("one reward and one verdict a response")
        rows.append(
            (
                float(majority.correct),
                sum(a == b for a, b in zip(rewards, right, strict=True)) / n,
                vote.consistency_all,
                sum(right) / n,
                sum(rewards) / n,
                float(any(right)),
                vote.parsed / n,
            )
        )
    if not rows:
        return dict.fromkeys(names, float("nan"))
    return {name: sum(row[i] for row in rows) / len(rows) for i, name in enumerate(names)}
