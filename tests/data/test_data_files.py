"""Local files: reading, columns, selection, and the sentence for every wrong input."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common.errors import SrtError
from srt.config.datasets import parse_dataset
from srt.data import PROBLEM_SCHEMA, Loaded, fingerprint, load_with_report, question_key
from srt.data.local_files import read_rows
from srt.data.question_text import is_blank
from srt.data.row_selection import as_text, gsm8k_answer, select_rows

ROWS = [
    {"id": f"p{i}", "question": f"What is {i}?", "answer": i, "set": "ab"[i % 2], "odd": i % 2 == 1} for i in range(10)
]


def entry(**changes: Any) -> Any:
    return parse_dataset("t", {"source": "local", "path": "t.jsonl"} | changes)


def write(folder: Path, rows: list[dict[str, Any]], name: str = "t.jsonl") -> None:
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    elif name.endswith(".csv"):
        pd.DataFrame(rows).to_csv(folder / name, index=False)
    elif name.endswith(".json"):
        (folder / name).write_text(json.dumps(rows))
    else:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Loaded:
    write(folder, rows)
    return load_with_report(entry(**changes), "t", folder)


def ids(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> list[str]:
    return made(folder, rows, **changes).table["id"].to_pylist()


def message(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> str:
    with pytest.raises(SrtError) as caught:
        made(folder, rows, **changes)
    assert "\n" not in str(caught.value) and "t.jsonl" in str(caught.value)
    return str(caught.value)


def test_every_format_gives_the_same_table(tmp_path: Path) -> None:
    tables = []
    for name in ("t.jsonl", "t.json", "t.parquet", "t.csv"):
        write(tmp_path, ROWS, name)
        tables.append(load_with_report(entry(path=name), "t", tmp_path).table)
    assert all(tables[0].equals(table) for table in tables[1:])
    assert tables[0].schema == PROBLEM_SCHEMA
    expected = {"id": "p3", "problem": "What is 3?", "answer": "3", "source": "t", "subject": "", "level": ""}
    assert tables[0].to_pylist()[3] == expected | {"task": "math"}


VERL = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": "Solve step by step.\n\nWhat is 30 + 4?"}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet"])
def test_the_layout_of_verl_and_dapo(tmp_path: Path, name: str) -> None:
    write(tmp_path, [VERL], name)
    row = load_with_report(entry(path=name), "t", tmp_path).table.to_pylist()[0]
    assert row["problem"] == "Solve step by step.\n\nWhat is 30 + 4?" and row["answer"] == "34"
    keys = {
        "columns": {"id": "extra_info.index", "source": "data_source"},
        "filter": {"reward_model.ground_truth": "34"},
    }
    row = load_with_report(entry(path=name, **keys), "t", tmp_path).table.to_pylist()[0]
    assert row["id"] == "9a9b6eb4" and row["source"] == "math_dapo"


def test_a_csv_with_quotes_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('problem,answer\n\n"a, ""b""\nc",007\nd,1\n', encoding="utf-8-sig")
    names, rows = read_rows(tmp_path / "t.csv")
    assert names == ["problem", "answer"]
    assert rows == [{"problem": 'a, "b"\nc', "answer": "007"}, {"problem": "d", "answer": "1"}]


def test_columns_task_and_numbered_ids(tmp_path: Path) -> None:
    rows = [{"Q": f"q{i}", "A": "1", "id": "same", "s": 5, "level": 2.5} for i in range(3)]
    columns = {"problem": "Q", "answer": "A", "id": None, "subject": "s"}
    table = made(tmp_path, rows, columns=columns, task="chain_sum").table
    first = {"id": "t-000000", "problem": "q0", "answer": "1", "source": "t", "subject": "5", "level": "2.5"}
    assert table.to_pylist()[0] == first | {"task": "chain_sum"}
    # the number is the row's place in the file, whichever rows are selected
    assert ids(tmp_path, rows, columns=columns, filter={"Q": ["q2"]}) == ["t-000002"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"set": "b"}, [1, 3, 5, 7, 9]),
        ({"odd": False}, [0, 2, 4, 6, 8]),
        ({"answer": [2, 3, 77], "odd": True}, [3]),
    ],
)
def test_filter(tmp_path: Path, wanted: dict[str, Any], expected: list[int]) -> None:
    assert ids(tmp_path, ROWS, filter=wanted) == [f"p{i}" for i in expected]


def test_take_and_shuffle(tmp_path: Path) -> None:
    assert ids(tmp_path, ROWS, take=3) == ["p0", "p1", "p2"]
    shuffled = ids(tmp_path, ROWS, shuffle_seed=1)
    assert sorted(shuffled) == ids(tmp_path, ROWS) != shuffled
    assert shuffled != ids(tmp_path, ROWS, shuffle_seed=2)
    assert ids(tmp_path, ROWS[::-1], shuffle_seed=1) == shuffled, "the order does not depend on that of the file"
    assert ids(tmp_path, ROWS, shuffle_seed=1, take=4) == shuffled[:4]


VISIBLE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).filter(lambda text: not is_blank(text))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    texts=st.lists(VISIBLE, max_size=40),
    fraction=st.floats(0.01, 0.99),
)
def test_holdout_parts_are_disjoint_and_whole(texts: list[str], fraction: float) -> None:
    rows = [{"problem": text, "answer": "1"} for text in [*texts, "always", "also"]]
    parts: dict[str, list[dict[str, str]]] = {}
    for part in ("train", "heldout"):
        config = entry(holdout_fraction=fraction, part=part)
        try:
            parts[part] = select_rows(config, "x", "x", ["problem", "answer"], rows).rows
        except SrtError as error:
            assert "no row is left" in str(error)
            parts[part] = []
    together = sorted(row["id"] for part in parts.values() for row in part)
    assert together == [f"x-{i:06d}" for i in range(len(rows))]
    keys = [{question_key(row["problem"]) for row in part} for part in parts.values()]
    assert not keys[0] & keys[1], "all copies of a question are in the same part"


def test_holdout_is_the_same_after_a_filter(tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": f"q{i}", "answer": "1", "lang": "ez"[i % 2]} for i in range(300)]
    whole = set(ids(tmp_path, rows, holdout_fraction=0.2, part="heldout"))
    some = set(ids(tmp_path, rows, holdout_fraction=0.2, part="heldout", filter={"lang": "z"}))
    assert 30 < len(whole) < 90 and some == {i for i in whole if int(i) % 2}


def test_empty_answers(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "bad", "question": "?", "answer": "  "}, {"id": "none", "question": "!"}]
    text = message(tmp_path, rows)
    assert "row 10 (id 'bad')" in text and "`on_empty_answer: drop`" in text
    loaded = made(tmp_path, rows, on_empty_answer="drop")
    assert loaded.table.num_rows == 10 and loaded.dropped == {"empty answer": ["bad", "none"]}
    manifest = loaded.manifest("t", entry(on_empty_answer="drop"))
    assert manifest["dropped"] == {"empty answer": {"rows": 2, "ids": ["bad", "none"]}}
    assert manifest["counts"]["read"] == 12 and manifest["rows"] == 10


def test_repeated_questions(tmp_path: Path) -> None:
    texts = ["1 + 1", "1+1", "1 + 1", "2", "1 + 1"]
    rows = [{"id": str(i), "problem": t, "answer": a} for i, (t, a) in enumerate(zip(texts, "22x22", strict=True))]
    kept = made(tmp_path, rows)
    assert kept.table.num_rows == 5
    assert kept.counts["repeated_questions_same_answer"] == 2 and kept.counts["repeated_questions_other_answer"] == 1
    fewer = made(tmp_path, rows, on_duplicate_problem="drop_same_answer")
    assert fewer.table["id"].to_pylist() == ["0", "2", "3"]
    assert fewer.dropped == {"repeated question with the same answer": ["1", "4"]}
    assert "'1' asks the same question as '0'" in message(tmp_path, rows, on_duplicate_problem="error")


def test_gsm8k_answers(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "1 + 1 = <<1+1=2>>2 #### no\n#### 1,042 "}]
    assert made(tmp_path, rows, answer_format="gsm8k").table["answer"].to_pylist() == ["1042"]
    assert gsm8k_answer("#### -3", "x") == "-3"
    text = message(tmp_path, [{"question": "q", "answer": "42"}], answer_format="gsm8k")
    assert "row 0 (id 't-000000')" in text and "####" in text and "answer_format: plain" in text
    assert "is empty" in message(tmp_path, [{"question": "q", "answer": "x ####"}], answer_format="gsm8k")


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (10**25, "1" + "0" * 25), (4.0, "4"), (2.5, "2.5"), (-0.0, "0"), (Decimal("7"), "7"), (" a ", " a "),
     (None, ""), (float("nan"), ""), (1e300, str(int(1e300)))],
)  # fmt: skip
def test_as_text(value: Any, text: str) -> None:
    assert as_text(value, "x row 0", "answer") == text


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, b"x", "\ud800", math.inf, -math.inf, Decimal("Infinity")])
def test_as_text_refuses(value: Any) -> None:
    with pytest.raises(SrtError, match="x row 0: column 'answer' holds"):
        as_text(value, "x row 0", "answer")


@pytest.mark.parametrize(
    ("rows", "changes", "expected"),
    [
        ([{"x": 1, "answer": 2}], {}, ["no column for 'problem'", "it has: x, answer", "columns: {problem: ...}"]),
        ([{"question": "q", "y": 2}], {}, ["no column for 'answer'", "it has: question, y"]),
        (ROWS, {"columns": {"answer": "anwser"}}, ["lacks the column 'anwser'", "columns.answer", "mean 'answer'"]),
        (ROWS, {"columns": {"problem": None}}, ["no column for 'problem'"]),
        (ROWS, {"filter": {"sets": "a"}}, ["lacks the column 'sets' of `filter`", "it has: id", "mean 'set'"]),
        (ROWS, {"filter": {"set": "c"}}, ["no row has set = 'c'", "'a', 'b'"]),
        (ROWS, {"filter": {"odd": 1}}, ["no row has odd = 1", "False, True"]),
        (ROWS + ROWS[:1], {}, ["rows 0 and 10 have the same id 'p0'", "id: null"]),
        ([{"id": "", "question": "q", "answer": 1}], {}, ["row 0: the id", "id: null"]),
        ([{"id": "a", "question": " ", "answer": 1}], {}, ["row 0 (id 'a'): the problem", "is empty"]),
        ([{"id": "a", "question": " \u200b", "answer": 1}], {}, ["row 0 (id 'a'): the problem", "is empty"]),
        (
            [{"id": "a", "question": "q", "answer": "\u200b\ufeff\u3164"}],
            {},
            ["row 0 (id 'a'): the answer", "is empty"],
        ),
        ([{"id": "a", "question": ["q"], "answer": 1}], {}, ["row 0: column 'question' holds a list of str"]),
        ([VERL | {"prompt": []}], {}, ["row 0: column 'prompt' holds a list of nothing", "columns: {problem: ...}"]),
        (
            [VERL | {"prompt": [{"role": "system", "content": "s"}, *VERL["prompt"]]}],
            {},
            ["row 0: column 'prompt' holds a list of system, user, not one message of the role 'user'"],
        ),
        ([VERL], {"columns": {"answer": "reward_model"}}, ["column 'reward_model' holds dict", "such as 'column.key'"]),
        (
            [VERL],
            {"columns": {"answer": "reward_model.truth"}},
            ["lacks", "mean 'reward_model.ground_truth'?"],
        ),
        (ROWS, {"take": 11}, ["`take: 11`", "10 rows"]),
        (ROWS, {"expect_rows": 9}, ["has 10 rows", "9 of `expect_rows`"]),
        ([{"problem": "q", "answer": ""}], {"on_empty_answer": "drop"}, ["no row is left"]),
        ([], {}, ["has no rows"]),
    ],
)
def test_wrong_rows_are_one_sentence(tmp_path: Path, rows: Any, changes: dict[str, Any], expected: list[str]) -> None:
    text = message(tmp_path, rows, **changes)
    assert all(part in text for part in expected), text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.jsonl", None, ["none.jsonl does not exist"]),
        ("none.parquet", None, ["none.parquet does not exist"]),
        ("a.tsv", b"a\tb", ["end in '.tsv'", ".parquet, .jsonl, .json or .csv"]),
        ("a.csv", b"problem,answer,problem\n", ["column 'problem' appears twice"]),
        ("a.csv", b"problem,answer\n1,2,3\n", ["line 2: has 3 cells, and the header 2"]),
        ("a.csv", b'problem,answer\n"1"x,2\n', ["line 2 is not CSV"]),
        ("a.csv", b"problem,answer\n", ["has no rows"]),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}\n', ["line 2: key 'c' appears twice"]),
        ("a.json", b'[{"a": 1}, {"a": 1, "a": 1}]', ["row 1: key 'a' appears twice"]),
        ("a.jsonl", b'{"problem": "q", "answer": 1e999}\n', ["row 0: column 'answer' holds inf, not a finite number"]),
        ("a.jsonl", b'{"a": 1}\n\n{"a": }\n', ["line 3 is not JSON"]),
        ("a.jsonl", b'{"a": NaN}\n', ["line 1 is not JSON", "NaN"]),
        ("a.jsonl", b"[1]\n", ["line 1 is a JSON list"]),
        ("a.jsonl", b'{"a": "\xff"}\n', ["not UTF-8", "byte 7"]),
        ("a.jsonl", b"[" * 200000, ["line 1 is not JSON"]),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', ["is not JSON", ".jsonl"]),
        ("a.json", b'{"a": 1}', ["not a JSON list of objects"]),
        ("a.parquet", b"PAR1 no", ["not a readable parquet file"]),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path: Path, name: str, content: bytes | None, expected: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SrtError) as caught:
        load_with_report(entry(path=name), "t", tmp_path)
    assert all(part in str(caught.value) for part in [name, *expected]) and "\n" not in str(caught.value)


def test_a_parquet_file_with_a_column_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([["q"], ["1"], ["2"]], names=["problem", "answer", "answer"]), tmp_path / "t.parquet")
    with pytest.raises(SrtError, match=r"t.parquet: column 'answer' appears twice: rename or remove one"):
        load_with_report(entry(path="t.parquet"), "t", tmp_path)


def test_json_lines_keep_line_separators_inside_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"problem": "a\u2028b", "answer": 1}\r\n{"problem": "c", "answer": 2}', encoding="utf-8")
    assert read_rows(path)[1] == [{"problem": "a\u2028b", "answer": 1}, {"problem": "c", "answer": 2}]


def test_name_changes_no_row(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    tables = [load_with_report(entry(), name, tmp_path).table for name in ("a", "b")]
    assert fingerprint(tables[0]) == fingerprint(tables[1])
