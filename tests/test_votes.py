"""Thresholds, soft shares and the monitors of self-labelling, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from srt.answers import Grader
from srt.votes import distinct, majority_rewards, reaches, reasons, self_label_metrics, soft_shares


def boxes(*answers):
    return ["nothing" if a is None else f"\\boxed{{{a}}}" for a in answers]


@pytest.fixture(scope="module")
def grader():
    with Grader() as g:
        yield g


def test_shares_thresholds_and_rewards(grader):
    vote = grader.vote([boxes("5", "5.0", "6", None)])[0]
    assert soft_shares(vote) == (2 / 3, 2 / 3, 1 / 3, 0.0)
    assert majority_rewards(vote) == (1.0, 1.0, 0.0, 0.0)
    assert distinct(vote) == 2 and reasons([vote, vote]) == {"no_box": 2, "ok": 6}
    assert reaches(vote, 0.0) and reaches(vote, 2 / 3) and not reaches(vote, 0.67)
    assert reaches(vote, 0.5, of_all=True) and not reaches(vote, 0.51, of_all=True)


def test_no_majority_reaches_no_threshold(grader):
    vote = grader.vote([boxes(None, None)])[0]
    assert not reaches(vote, 0.0) and soft_shares(vote) == (0.0, 0.0) and majority_rewards(vote) == (0.0, 0.0)


def test_self_label_metrics_by_hand(grader):
    # Prompt 1: majority 5 is right, rewards equal the truth. Prompt 2: majority 7 is wrong, truth is 8.
    groups = [boxes("5", "5", "6", None), boxes("7", "7", "7", "8")]
    votes = grader.vote(groups)
    truth = grader.verify(groups, ["5", "8"])
    majority = grader.verify_answers([v.majority for v in votes], ["5", "8"])
    metrics = self_label_metrics(votes, [majority_rewards(v) for v in votes], truth, majority)
    assert metrics == pytest.approx(
        {
            "label_accuracy": 0.5,
            "reward_accuracy": (1.0 + 0.0) / 2,
            "majority_ratio": (0.5 + 0.75) / 2,
            "ground_truth_ratio": (0.5 + 0.25) / 2,
            "majority_voting_reward": (0.5 + 0.75) / 2,
            "pass_at_n": 1.0,
            "parsed_rate": (0.75 + 1.0) / 2,
        }
    )


def test_a_constant_policy_looks_perfect_to_itself(grader):
    groups = [boxes("1", "1", "1")] * 10
    votes = grader.vote(groups)
    labels = ["1"] + ["2"] * 9
    metrics = self_label_metrics(
        votes, [majority_rewards(v) for v in votes], grader.verify(groups, labels),
        grader.verify_answers([v.majority for v in votes], labels),
    )  # fmt: skip
    assert metrics["majority_voting_reward"] == 1.0 and metrics["label_accuracy"] == 0.1


def test_metrics_check_their_inputs(grader):
    votes = grader.vote([boxes("1")])
    with pytest.raises(ValueError):
        self_label_metrics(votes, [], [], [])
    with pytest.raises(ValueError):
        self_label_metrics(votes, [[1.0, 0.0]], grader.verify([boxes("1")], ["1"]), grader.verify_answers(["1"], ["1"]))
    assert all(value != value for value in self_label_metrics([], [], [], []).values())
