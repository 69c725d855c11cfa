"""Rewards and monitors on groups that can be counted by hand; which inputs each may use."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import write_parquet
from srt.config.preferences import OFFLINE
from srt.config.runs import LABEL_FREE, TRUE_LABELS, VOTING
from srt.rewards.group_rewards import Monitor, batch_statistics, training_rewards
from srt.training.training_set import REWARDS, read_training_set

# Four responses each. By hand: majority 7 (2 of 3 parsed); tie of 2 and 3; no answer; unanimous 5 though 6 is right;
# 1/2 written in three ways.
GROUPS = [
    ["it is \\boxed{8}", "\\boxed{7}", "\\boxed{7}", "no answer"],
    ["\\boxed{2}", "\\boxed{3}", "\\boxed{3}", "\\boxed{2}"],
    ["7", "\\boxed{", "", "the answer is 9"],
    ["\\boxed{5}"] * 4,
    ["\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "\\boxed{3}", "\\boxed{1/2}"],
]
IDS = ["a", "b", "c", "d", "e"]
TASKS = ["math"] * 5
TRUTH = {"a": "7", "b": "3", "c": "9", "d": "6", "e": "0.5"}


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader()


def test_majority_rewards_by_hand(grader):
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    assert given.rewards.dtype == np.float64 and given.rewards.shape == (5, 4)
    assert given.rewards.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1]]
    assert given.labelled.tolist() == [True, True, False, True, True]
    assert given.labels[:4] == ["7", "2", None, "5"] and given.labels[4] is not None


def test_raw_string_votes_of_the_authors():
    """One half in three spellings gets one vote each: the first seen is the label, and equal answers are rewarded."""
    given = training_rewards("majority", Grader(preset="authors"), GROUPS, None, TASKS)
    assert given.labels[:4] == ["7", "2", None, "5"] and given.labels[4] == "\\frac{1}{2}"
    assert given.rewards.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1]]


@pytest.mark.parametrize("kind", ["ground_truth", "offline_labels"])
def test_given_labels_by_hand(grader, kind):
    given = training_rewards(kind, grader, GROUPS, ["8", "3", "9", None, "1/2"], TASKS)
    assert given.rewards.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]
    assert given.labelled.tolist() == [True, True, True, False, True]  # by the label, not by what was parsed
    assert given.labels == ["8", "3", "9", None, "1/2"]
    assert [v.majority for v in given.votes][:4] == ["7", "2", None, "5"]


def test_label_free_rewards_refuse_labels_and_the_others_need_them(grader):
    online = set(REWARDS) - set(OFFLINE)  # runs on stored responses have no rewards (srt.training.preference_trainer)
    assert online == LABEL_FREE | TRUE_LABELS | {"offline_labels"}
    for kind in LABEL_FREE:
        with pytest.raises(ValueError, match=f"reward '{kind}' must not be given labels"):
            training_rewards(kind, grader, GROUPS, ["7"] * 5, TASKS)
    for kind in online - LABEL_FREE:
        with pytest.raises(ValueError, match="needs labels"):
            training_rewards(kind, grader, GROUPS, None, TASKS)
    with pytest.raises(ValueError, match="unknown reward 'truth'"):
        training_rewards("truth", grader, GROUPS, ["7"] * 5, TASKS)


def test_soft_majority_rewards_by_hand(grader):
    """The share of responses with the same answer; responses without an answer are in no denominator."""
    given = training_rewards("soft_majority", grader, GROUPS, None, TASKS)
    third, quarter = 1 / 3, 1 / 4
    assert given.rewards.tolist() == [
        [third, 2 * third, 2 * third, 0],
        [0.5] * 4,
        [0] * 4,
        [1] * 4,
        [3 * quarter, 3 * quarter, quarter, 3 * quarter],
    ]
    assert given.rewards.dtype == np.float64
    assert given.labelled.tolist() == [True, True, False, True, True]
    assert given.labels[:4] == given.pseudo_labels[:4] == ["7", "2", None, "5"]


@pytest.mark.parametrize(
    ("threshold", "labelled"),
    [
        (0.0, [True, True, False, True, True]),
        (0.5, [True, True, False, True, True]),  # 2 of all 4 responses, parsed or not, reach it
        (0.51, [False, False, False, True, True]),
        (0.75, [False, False, False, True, True]),
        (1.0, [False, False, False, True, False]),
    ],
)
def test_a_majority_below_the_threshold_is_no_label(grader, threshold, labelled):
    for kind in VOTING:
        full = training_rewards(kind, grader, GROUPS, None, TASKS)
        given = training_rewards(kind, grader, GROUPS, None, TASKS, threshold)
        assert given.labelled.tolist() == labelled
        assert (given.rewards == full.rewards * given.labelled[:, None]).all()
        assert [label is not None for label in given.labels] == labelled
        assert [vote.majority for vote in given.votes] == [vote.majority for vote in full.votes]
    truth = training_rewards("ground_truth", grader, GROUPS, ["7", "3", "9", "6", "0.5"], TASKS, threshold)
    assert truth.labelled.all()  # given labels have no votes that could reach it


@pytest.mark.parametrize("kind", sorted(set(REWARDS) - set(OFFLINE) - TRUE_LABELS))
def test_rewards_are_the_same_without_the_truth_column(kind, tmp_path):
    table = {"id": IDS, "problem": ["?"] * 5, "task": TASKS}
    write_parquet(tmp_path / "labels.parquet", pa.table({"problem_id": IDS, "label": ["8", "3", "9", "5", "3"]}))
    found = []
    for name, columns in (("with", {**table, "answer": list(TRUTH.values())}), ("without", table)):
        write_parquet(tmp_path / name, pa.table(columns))
        labels = tmp_path / "labels.parquet" if kind == "offline_labels" else None
        data, truth = read_training_set(tmp_path / name, kind, labels=labels)
        assert truth == (TRUTH if name == "with" else {})
        found.append(training_rewards(kind, Grader(), GROUPS, data.labels_of(range(5)), data.tasks, 0.3))
    a, b = found
    assert a.rewards.tobytes() == b.rewards.tobytes() and a.labels == b.labels
    assert (a.labelled == b.labelled).all() and a.votes == b.votes


ANSWERS = {"nulls": [None] * 5, "some": ["8", None, "", "\u200b", "3"], "numbers": [8, 3, 9, 5, 3],
           "floats": [8.0, None, math.nan, math.inf, 3.5], "lists": [["8"], [], None, ["5"], ["3"]]}  # fmt: skip


@pytest.mark.parametrize("answers", ANSWERS)
def test_training_without_labels_is_indifferent_to_the_answers(answers, tmp_path):
    table = {"id": IDS, "problem": ["?"] * 5, "task": TASKS}
    write_parquet(tmp_path / "without", pa.table(table))
    write_parquet(tmp_path / "with", pa.table({**table, "answer": ANSWERS[answers]}))
    data, truth = read_training_set(tmp_path / "with", "majority")
    assert data == read_training_set(tmp_path / "without", "majority")[0]
    expected = {
        "some": {IDS[0]: "8", IDS[4]: "3"},
        "numbers": dict(zip(IDS, "83953", strict=True)),
        "floats": {IDS[0]: "8", IDS[4]: "3.5"},
    }
    assert truth == expected.get(answers, {})
    if answers != "numbers":
        with pytest.raises(SrtError, match=r"with row \d \(id '.+'\): .*answer"):
            read_training_set(tmp_path / "with", "ground_truth")


def test_unanimous_groups_by_hand(grader):
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    assert given.unanimous.tolist() == [False, False, True, True, False]
    soft = training_rewards("soft_majority", grader, GROUPS, None, TASKS)
    assert soft.unanimous.tolist() == [False, True, True, True, False]  # in a tie, all have the same share


def test_batch_statistics_by_hand(grader):
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    found = batch_statistics([vote.majority for vote in given.votes], given.unanimous.tolist())
    assert found == {"distinct_majority": 4 / 5, "top_majority_share": 1 / 5, "unanimous_rate": 2 / 5}
    collapsed = batch_statistics(["1"] * 7 + [None], [True] * 8)
    assert collapsed == {"distinct_majority": 1 / 8, "top_majority_share": 7 / 8, "unanimous_rate": 1.0}
    assert batch_statistics([None, None], [True, True])["top_majority_share"] == 0.0
    assert all(math.isnan(v) for v in batch_statistics([], []).values())
    with pytest.raises(ValueError, match="one flag per prompt"):
        batch_statistics(["1"], [])


def test_monitors_by_hand(grader):
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    rows = Monitor(grader, TRUTH).observe(IDS, GROUPS, given, TASKS)
    expected = {  # group a: 7 is right; b: 3 is right, 2 was voted; c: no answer; d: all wrong; e: right
        "reward": [0.5, 0.5, 0.0, 1.0, 0.75],
        "true_accuracy": [0.5, 0.5, 0.0, 0.0, 0.75],
        "reward_accuracy": [1.0, 0.0, 1.0, 0.0, 1.0],
        "label_accuracy": [1.0, 0.0, 0.0, 0.0, 1.0],
        "majority_ratio": [0.5, 0.5, 0.0, 1.0, 0.75],
        "parsed_rate": [0.75, 1.0, 0.0, 1.0, 1.0],
    }
    assert {key: [row[key] for row in rows] for key in rows[0]} == expected


def test_monitors_know_what_they_are_told(grader):
    """With a true answer for one problem only, accuracies of others are nan; monitors without truth are unaffected."""
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    rows = Monitor(grader, {"d": "6"}).observe(IDS, GROUPS, given, TASKS)
    full = Monitor(grader, TRUTH).observe(IDS, GROUPS, given, TASKS)
    for i, (row, known) in enumerate(zip(rows, full, strict=True)):
        for key in ("true_accuracy", "reward_accuracy", "label_accuracy"):
            assert (row[key] == known[key]) if i == 3 else math.isnan(row[key])
        for key in ("reward", "majority_ratio", "parsed_rate"):
            assert row[key] == known[key]


def test_monitors_of_ground_truth_training(grader):
    """The reward is the truth, so both agree; the majority is monitored, too."""
    given = training_rewards("ground_truth", grader, GROUPS, [TRUTH[i] for i in IDS], TASKS)
    rows = Monitor(grader, TRUTH).observe(IDS, GROUPS, given, TASKS)
    assert [row["reward_accuracy"] for row in rows] == [1.0] * 5
    assert [row["reward"] for row in rows] == [row["true_accuracy"] for row in rows]
    assert [row["label_accuracy"] for row in rows] == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_rewards_do_not_depend_on_the_order_of_groups(grader):
    order = [3, 1, 4, 0, 2]
    given = training_rewards("majority", grader, GROUPS, None, TASKS)
    moved = training_rewards("majority", Grader(), [GROUPS[i] for i in order], None, TASKS)
    assert (moved.rewards == given.rewards[order]).all()
