"""Thresholds and soft shares against numbers worked out by hand; the reward of a policy with one constant answer."""

from __future__ import annotations

import numpy as np
import pytest

from srt.answers import Grader
from srt.answers.votes import reaches, soft_shares
from srt.rewards.group_rewards import Monitor, training_rewards


def boxes(*answers):
    return ["nothing" if a is None else f"\\boxed{{{a}}}" for a in answers]


@pytest.fixture(scope="module")
def grader():
    with Grader() as g:
        yield g


def test_shares_and_thresholds(grader):
    vote = grader.vote([boxes("5", "5.0", "6", None)])[0]
    assert soft_shares(vote) == (2 / 3, 2 / 3, 1 / 3, 0.0)
    assert reaches(vote, 0.0) and reaches(vote, 2 / 3) and not reaches(vote, 0.67)
    assert reaches(vote, 0.5, of_all=True) and not reaches(vote, 0.51, of_all=True)


def test_no_majority_reaches_no_threshold(grader):
    vote = grader.vote([boxes(None, None)])[0]
    assert not reaches(vote, 0.0) and soft_shares(vote) == (0.0, 0.0)


def test_a_constant_policy_looks_perfect_to_itself(grader):
    groups, ids, tasks = [boxes("1", "1", "1")] * 10, [str(i) for i in range(10)], ["math"] * 10
    monitor = Monitor(grader, dict(zip(ids, ["1"] + ["2"] * 9, strict=True)))
    given = training_rewards("majority", grader, groups, None, tasks)
    rows = monitor.observe(ids, groups, given, tasks)
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    assert means == pytest.approx(
        {
            "reward": 1.0,
            "true_accuracy": 0.1,
            "reward_accuracy": 0.1,
            "label_accuracy": 0.1,
            "majority_ratio": 1.0,
            "parsed_rate": 1.0,
        }
    )
