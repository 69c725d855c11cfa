"""The problem table on disk: it is read as it was written, and nothing else is accepted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common import io
from srt.common.errors import SrtError
from srt.data import PROBLEM_SCHEMA, fingerprint, read_problems, write_problems
from srt.data.problem_table import COLUMNS, make_table


def table(n: int = 3, **changes: list) -> pa.Table:
    rows = [
        {"id": f"p{i}", "problem": f"q{i}", "answer": "é", "source": "s", "subject": "", "level": "", "task": "math"}
        for i in range(n)
    ]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return pa.table(columns | changes)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    mark = write_problems(path, table(), "a")
    back = read_problems(path)
    assert back.to_pylist() == table().to_pylist()
    assert back.schema.remove_metadata() == PROBLEM_SCHEMA
    assert io.parquet_metadata(path) == {"dataset": "a", "fingerprint": mark} and mark == fingerprint(back)
    first = path.read_bytes()
    write_problems(path, table(), "a")
    assert path.read_bytes() == first


def test_fingerprint_is_that_of_the_rows() -> None:
    line = '{"answer":"é","id":"p0","level":"","problem":"q0","source":"s","subject":"","task":"math"}\n'
    assert fingerprint(table(1)) == io.sha256_bytes(line.encode())
    assert fingerprint(table(1).append_column("more", pa.array([1]))) == fingerprint(table(1))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sampled_from(COLUMNS), st.integers(0, 2), st.text(st.characters(codec="utf-8"), max_size=5))
def test_fingerprint_sees_every_cell(column: str, row: int, text: str) -> None:
    rows = table().to_pylist()
    changed = rows[row][column] != text
    rows[row][column] = text
    assert (fingerprint(make_table(rows)) != fingerprint(table())) == changed
    assert fingerprint(make_table(rows[::-1])) != fingerprint(make_table(rows))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (table().drop_columns(["level"]), ["lacks the column 'level'", "it has: id, problem"]),
        (table(answer=[1, 2, 3]), ["column 'answer' is int64, not text"]),
        (table(subject=["", None, ""]), ["row 1: column 'subject' is null"]),
        (table(id=["a", "b", "a"]), ["rows 0 and 2 have the same id 'a'"]),
        (table(id=["a", "", "c"]), ["row 1: the id is empty"]),
        (table(answer=["1", "2", " "]), ["row 2 (id 'p2'): the answer is empty"]),
        (table(problem=["", "2", "3"]), ["row 0 (id 'p0'): the problem is empty"]),
        (table(0, **{name: pa.array([], pa.string()) for name in COLUMNS}), ["has no rows"]),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, wrong: pa.Table, expected: list[str]) -> None:
    path = tmp_path / "a.parquet"
    io.write_parquet(path, wrong)
    with pytest.raises(SrtError) as caught:
        read_problems(path)
    assert all(part in str(caught.value) for part in [str(path), *expected]), str(caught.value)
    with pytest.raises(SrtError, match="data set 'x'"):
        write_problems(tmp_path / "b.parquet", wrong, "x")
    assert not (tmp_path / "b.parquet").exists()


def test_other_string_types_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    io.write_parquet(path, table().cast(pa.schema([(name, pa.large_string()) for name in COLUMNS])))
    assert read_problems(path).schema.remove_metadata() == PROBLEM_SCHEMA


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_problems(path, table(), "a")
    io.write_parquet(path, table(answer=["1", "2", "4"]), io.parquet_metadata(path))
    with pytest.raises(SrtError, match="changed since it was written"):
        read_problems(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SrtError, match=r"none\.parquet does not exist"):
        read_problems(tmp_path / "none.parquet")
