"""Reward `mixed_labels`: true answers for a share of the prompts, the majority for the others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import read_parquet, sha256_file, write_parquet
from srt.rewards.group_rewards import Monitor, training_rewards
from srt.training.run import run_segment
from srt.training.training_set import read_training_set, with_true_labels
from support.hand_made_rollouts import GROUPS, TRUTH
from support.specs import train_spec
from support.training import whole_run

TASKS = ["math"] * len(GROUPS)
SHARE = 0.25


def test_rewards_by_hand():
    """Groups 2 and 4 have labels, the others vote: 7 in the first, nothing in the third."""
    labels = [None, "3", None, "6"]
    given = training_rewards("mixed_labels", Grader(), GROUPS, labels, TASKS)
    assert given.rewards.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert given.labels == ["7", "3", None, "6"] and given.labelled.tolist() == [True, True, False, True]
    above = training_rewards("mixed_labels", Grader(), GROUPS, labels, TASKS, threshold=0.75)
    assert above.labels == [None, "3", None, "6"]  # 2 of 4 votes are too few, and a given label has none
    rows = Monitor(Grader(), dict(zip("abcd", TRUTH, strict=True))).observe("abcd", GROUPS, given, TASKS)
    assert [row["label_accuracy"] for row in rows] == [1, 0, 0, 0]  # of the majorities, also where a label is used


def test_the_chosen_prompts_are_a_function_of_ids_and_seed():
    ids = [f"p{i}" for i in range(40)]
    chosen = with_true_labels(ids, SHARE, seed=1)
    assert len(chosen) == 10 and set(with_true_labels(ids[::-1], SHARE, seed=1)) == set(chosen)
    assert set(chosen) < set(with_true_labels(ids, 0.5, seed=1))
    assert set(chosen) != set(with_true_labels(ids, SHARE, seed=2))
    assert with_true_labels(ids, 0.001, seed=1) == chosen[:1]


def changed_answers(source: Path, out: Path, keep: set[str], answer: str | None) -> Path:
    """The problems with another answer for all but those in `keep`."""
    table = read_parquet(source)
    pairs = zip(table["id"].to_pylist(), table["answer"].to_pylist(), strict=True)
    answers = pa.array([old if name in keep else answer for name, old in pairs], pa.string())
    write_parquet(out, table.set_column(table.column_names.index("answer"), "answer", answers))
    return out


def test_only_the_chosen_labels_reach_training(tmp_path, tiny_base, sums):
    """With all other answers wrong or absent, the weights stay the same byte for byte; the chosen ones change them."""
    ids = read_parquet(sums, ["id"])["id"].to_pylist()
    spec = train_spec(reward="mixed_labels", label_share=0.5)
    chosen = set(with_true_labels(ids, 0.5, spec["seed"]))
    files = [
        sums,
        changed_answers(sums, tmp_path / "wrong.parquet", chosen, "1000"),
        changed_answers(sums, tmp_path / "absent.parquet", chosen, None),
    ]
    weights, frames = [], []
    for number, file in enumerate(files):
        data, truth = read_training_set(file, "mixed_labels", label_share=0.5, seed=spec["seed"])
        assert data.labels is not None and data.labels.keys() == chosen
        assert all(data.has_label(i) for i in range(len(ids)))
        folder = tmp_path / str(number)
        run_segment(whole_run(folder, tiny_base, spec, 2), data, truth)
        weights.append(sha256_file(folder / "model" / "model.safetensors"))
        frames.append(read_parquet(folder / "metrics.parquet").to_pandas())
    data, truth = read_training_set(sums, "majority")
    run_segment(whole_run(tmp_path / "votes", tiny_base, train_spec(), 2), data, truth)
    votes = sha256_file(tmp_path / "votes" / "model" / "model.safetensors")
    assert weights[0] == weights[1] == weights[2] != votes
    monitors = ["true_accuracy", "reward_accuracy", "label_accuracy"]
    assert frames[0].drop(columns=monitors).equals(frames[2].drop(columns=monitors))


def test_a_chosen_problem_needs_its_answer(tmp_path, sums):
    absent = changed_answers(sums, tmp_path / "absent.parquet", set(), None)
    with pytest.raises(SrtError, match=r"row \d+ \(id '.+'\): .*answer"):
        read_training_set(absent, "mixed_labels", label_share=SHARE, seed=1)
    write_parquet(tmp_path / "none.parquet", read_parquet(sums).drop_columns(["answer"]))
    with pytest.raises(SrtError, match="no column 'answer', which reward mixed_labels needs"):
        read_training_set(tmp_path / "none.parquet", "mixed_labels", label_share=SHARE, seed=1)
    with pytest.raises(SrtError, match=r"needs train\.label_share"):
        read_training_set(sums, "mixed_labels")
