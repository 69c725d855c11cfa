"""Data without true answers: training without labels reads them, whatever their column of answers holds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from srt.answers import Grader
from srt.audit.overlap import index, matches
from srt.common.errors import SrtError
from srt.common.io import read_parquet, write_parquet
from srt.config.datasets import parse_dataset
from srt.data import load_with_report, read_problems, write_problems
from srt.evaluation.scoring import score_file
from srt.labels.curriculum import easiest
from srt.training.training_set import read_training_set
from support.config_files import change, load, write
from support.scripts import run

ANSWERS = {
    "absent": None,
    "null": [None, None, None],
    "some": ["2", None, "4"],
    "lists": [["2"], ["3"], ["4", "5"]],
    "numbers": [2.5, float("nan"), 4.0],
}


def table(folder: Path, answers: str, **keys: object) -> pa.Table:
    """The problem table of three questions."""
    rows = {"id": ["a", "b", "c"], "problem": ["1 + 1?", "1 + 2?", "1 + 3?"]}
    given = ANSWERS[answers]
    frame = pa.table({**rows, **({} if given is None else {"answer": given})})
    write_parquet(folder / "rows.parquet", frame)
    entry = parse_dataset("d", {"source": "local", "path": str(folder / "rows.parquet"), **keys})
    loaded = load_with_report(entry, "d")
    assert ("answer" in loaded.manifest("d", entry)["columns"]) == ("columns" not in keys)
    return loaded.table


@pytest.mark.parametrize("answers", ANSWERS)
def test_whatever_the_answers_are_the_table_is_one(answers: str, tmp_path: Path) -> None:
    made = table(tmp_path, answers, columns={"answer": None})
    assert made.column("answer").null_count == 3
    assert made.equals(table(tmp_path, "absent", columns={"answer": None}))
    write_problems(tmp_path / "d.parquet", made, "d")
    assert read_problems(tmp_path / "d.parquet").to_pylist() == made.to_pylist()


@pytest.mark.parametrize(
    ("answers", "what"), [("absent", "no column for 'answer'"), ("some", "is empty"), ("lists", "holds list")]
)
def test_the_way_out_is_in_the_sentence(answers: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(SrtError, match=rf"{what}.*`columns: \{{answer: null\}}` for data without answers$"):
        table(tmp_path, answers)


def test_from_scores_to_the_training_sets_of_all_methods_without_labels(tmp_path: Path) -> None:
    problems = tmp_path / "d.parquet"
    write_problems(problems, table(tmp_path, "null", columns={"answer": None}), "d")
    responses = {"a": ["2", "2", "3"], "b": ["3", "3", "5"], "c": ["4", "4", "4"]}
    rows = [
        {"dataset": "d", "problem_id": name, "sample": i, "response": f"\\boxed{{{answer}}}", "token_ids": [1, 2],
         "logprobs": [-0.1, -0.1], "finish_reason": "stop"}
        for name, given in responses.items() for i, answer in enumerate(given)
    ]  # fmt: skip
    write_parquet(tmp_path / "samples", pd.DataFrame(rows))
    with Grader("clean", "boxed", workers=1) as grader:
        summary = score_file(tmp_path / "samples", [problems], tmp_path / "scores", tmp_path / "groups.parquet", grader)
    assert "unknown (no references)" in summary.lines()[0]
    groups = read_parquet(tmp_path / "groups.parquet").to_pandas()
    assert groups["majority"].tolist() == ["2", "3", "4"] and groups["pass_rate"].isna().all()
    assert easiest(groups, "majority_frequency", 1 / 3)["problem_id"].tolist() == ["c"]
    done = run("labels.py", groups=tmp_path / "groups.parquet", out=tmp_path / "labels")
    assert done.returncode == 0 and "no true answers to compare with" in done.stdout
    for reward, labels in (("majority", None), ("offline_labels", tmp_path / "labels")):
        data, truth = read_training_set(problems, reward, labels=labels)
        assert data.ids == ["a", "b", "c"] and truth == {}
    with pytest.raises(SrtError, match=r"row 0 \(id 'a'\): the answer, which reward ground_truth needs, is empty"):
        read_training_set(problems, "ground_truth")


def test_the_audit_compares_unlabelled_questions(tmp_path: Path) -> None:
    unlabelled = index(table(tmp_path, "null", columns={"answer": None}), "train")
    labelled = index(table(tmp_path, "numbers", on_empty_answer="drop"), "test")
    found = matches(unlabelled, labelled)
    assert [(match.test_id, match.same_answer) for match in found] == [("a", False), ("c", False)]


UNLABELLED = ("datasets.yaml", "path: more.jsonl", "path: more.jsonl\n  columns: {answer: null}")
NOT_A_TEST_SET = ("main.yaml", "tests: [sums_test, more_test]", "tests: [sums_test]")
NEEDED = "needs true answers, and data set 'more_test' has none"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([], f"runs.yaml: gt: suites: an evaluation {NEEDED}"),
        (
            [NOT_A_TEST_SET, ("figures.yaml", "  suite: tests", "  suite: more_test")],
            f"figures.yaml: fig2: suite: an evaluation {NEEDED}",
        ),
        (
            [NOT_A_TEST_SET, ("runs.yaml", "data: sums\n  reward: ground", "data: more_test\n  reward: ground")],
            f"runs.yaml: gt: data: reward ground_truth {NEEDED}",
        ),
        (
            [NOT_A_TEST_SET, ("runs.yaml", "data: sums\n  reward: maj", "data: more_test\n  reward: maj")],
            f"runs.yaml: srt: curriculum: by: a curriculum by pass_rate {NEEDED}",
        ),
    ],
    ids=["test_set", "figure", "reward", "curriculum"],
)
def test_what_needs_true_answers_is_refused(changes: list[tuple[str, str, str]], sentence: str, tmp_path: Path) -> None:
    """The one sentence comes before any job, from the configuration."""
    write(tmp_path)
    for file, old, new in [UNLABELLED, *changes]:
        change(tmp_path, file, old, new)
    with pytest.raises(SrtError, match=sentence):
        load(tmp_path)


def test_training_without_labels_on_unlabelled_data_is_planned(tmp_path: Path) -> None:
    write(tmp_path)
    label_free = ("runs.yaml", "data: sums\n  reward: maj", "data: more_test\n  reward: maj")
    by_votes = ("runs.yaml", "curriculum: {by: pass_rate}", "curriculum: {by: majority_frequency}")
    drawn = ("figures.yaml", "datasets: [sums_test, more_test]", "datasets: [sums_test]")
    held_out = ("figures.yaml", "  options:\n    validation_dataset: more_test\n", "")
    for file, old, new in [UNLABELLED, NOT_A_TEST_SET, label_free, by_votes, drawn, held_out]:
        change(tmp_path, file, old, new)
    assert load(tmp_path).entry("srt-s1").run.data == "more_test"
