"""What follows from votes: thresholds and soft shares.

Pure functions of `srt.answers.Vote`; no extraction, no comparison. Monitors are in `srt.training.rewards`, offline
labels and
the curriculum orders are columns of the groups table (`srt.labels.offline_labels`), avg@k, maj@k and pass@k are in
`srt.evaluation.scoring`.
"""

from __future__ import annotations

from collections import Counter

from srt.answers import Vote


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
