"""Every problem file of ../shared/data is readable as a local data set (skipped where the folder is not there)."""

from __future__ import annotations

from typing import Any

import pytest

from srt.common.errors import SrtError
from srt.config.datasets import parse_dataset
from srt.data import Loaded, load_with_report, question_key
from support import ROOT

SHARED = ROOT.parent / "shared" / "data"


def made(path: str, **changes: Any) -> Loaded:
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/data/{path} is missing: it is not part of the project")
    return load_with_report(parse_dataset("t", {"source": "local", "path": path} | changes), "t", SHARED)


@pytest.mark.parametrize(
    ("path", "changes", "rows"),
    [
        ("dapo_math_17k_dedup.parquet", {}, 17398),
        ("dapo_math_17k_dedup.parquet", {"filter": {"lang": "en"}}, 14116),
        ("dapo_math_17k_dedup.parquet", {"filter": {"lang": "zh"}}, 3282),
        ("math_train12k.parquet", {"on_empty_answer": "drop"}, 11998),
        ("math500_test.parquet", {"expect_rows": 500}, 500),
        ("aime24_test.parquet", {"on_duplicate_problem": "error"}, 30),
        ("aime25_test.parquet", {"on_duplicate_problem": "error"}, 30),
        ("amc23_test.parquet", {"on_duplicate_problem": "error"}, 40),
        ("aime_1983_2023.parquet", {}, 975),
        ("aime_1983_2023.parquet", {"filter": {"in_kaggle_919": True}}, 919),
        ("gsm8k_train.parquet", {}, 7473),
        ("gsm8k_test.parquet", {}, 1319),
        ("extra_tests.parquet", {}, 1074),
        ("extra_tests.parquet", {"filter": {"set": "amc24"}}, 45),
        ("extra_tests.parquet", {"filter": {"set": "amc_ttt"}}, 83),
        ("extra_tests.parquet", {"filter": {"set": "minerva"}}, 272),
        ("extra_tests.parquet", {"filter": {"set": "olympiadbench"}}, 674),
    ],
)
def test_file(path: str, changes: dict[str, Any], rows: int) -> None:
    table = made(path, **changes).table
    assert table.num_rows == rows
    assert all(table["source"].to_pylist()) and set(table["task"].to_pylist()) == {"math"}


def test_math_names_its_empty_answers() -> None:
    with pytest.raises(SrtError, match=r"math_train12k.parquet row 5341 \(id 'math-train-5341'\): the answer"):
        made("math_train12k.parquet")
    dropped = made("math_train12k.parquet", on_empty_answer="drop").dropped
    assert dropped == {"empty answer": ["math-train-5341", "math-train-5343"]}


@pytest.mark.slow
def test_one_percent_of_dapo_held_out() -> None:
    held, train = (
        made("dapo_math_17k_dedup.parquet", holdout_fraction=0.01, part=part).table for part in ("heldout", "train")
    )
    assert 120 < held.num_rows < 230 and held.num_rows + train.num_rows == 17398
    keys = [{question_key(text) for text in table["problem"].to_pylist()} for table in (held, train)]
    assert not keys[0] & keys[1]


def test_final_answers_of_gsm8k_solutions_are_the_answers() -> None:
    plain = made("gsm8k_test.parquet").table
    solved = made("gsm8k_test.parquet", columns={"answer": "solution"}, answer_format="gsm8k").table
    assert solved["answer"].to_pylist() == plain["answer"].to_pylist()


def test_a_file_without_problems_is_refused_with_its_columns() -> None:
    with pytest.raises(SrtError, match=r"no column for 'problem' .*it has: id, pred, gold"):
        made("grading_cases.jsonl")
