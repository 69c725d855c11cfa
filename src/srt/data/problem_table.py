"""The problem table: its schema, fingerprint, and checked reading and writing.

The answers of unlabelled data are null, in every row; no other cell of a table is null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from srt.common import io
from srt.common.errors import SrtError
from srt.data.question_text import is_blank

COLUMNS = ("id", "problem", "answer", "source", "subject", "level", "task")
PROBLEM_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])
UNLABELLED_SCHEMA = PROBLEM_SCHEMA.set(COLUMNS.index("answer"), pa.field("answer", pa.string()))


def make_table(rows: Iterable[Mapping[str, str | None]]) -> pa.Table:
    """A problem table from rows with all of `COLUMNS`."""
    rows = list(rows)
    arrays = {name: pa.array([row[name] for row in rows], pa.string()) for name in COLUMNS}
    return pa.table(arrays, UNLABELLED_SCHEMA if arrays["answer"].null_count else PROBLEM_SCHEMA)


def fingerprint(table: pa.Table) -> str:
    """SHA-256 (64 hex digits) over the rows' canonical JSON in their order, one line per row."""
    digest = hashlib.sha256()
    for row in table.select(COLUMNS).to_pylist():
        digest.update(io.canonical_json(row).encode() + b"\n")
    return digest.hexdigest()


def check(table: pa.Table, where: str) -> pa.Table:
    """`table` with exactly the problem schema; else an `SrtError` that names `where` and the column or row (from 0).

    Other columns are dropped; `large_string` and other string types are accepted.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SrtError(
            f"{where} lacks the column '{missing[0]}' of a problem table (it has: {', '.join(table.column_names)}): "
            "make it with scripts/make_data.py"
        )
    arrays = {}
    unlabelled = 0 < table.num_rows == table["answer"].null_count
    for name in COLUMNS:
        column = table[name]
        if name == "answer" and unlabelled:
            arrays[name] = pa.nulls(table.num_rows, pa.string())
            continue
        kind = column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise SrtError(f"{where}: column '{name}' is {kind}, not text: make it with scripts/make_data.py")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise SrtError(f"{where} row {row}: column '{name}' is null: make it with scripts/make_data.py")
        arrays[name] = column.cast(pa.string()).combine_chunks()
    first_row: dict[str, int] = {}
    texts = zip(*(arrays[name].to_pylist() for name in ("id", "problem", "answer")), strict=True)
    for row, (identity, problem, answer) in enumerate(texts):
        if not identity:
            raise SrtError(f"{where} row {row}: the id is empty: give every row an id")
        if identity in first_row:
            raise SrtError(
                f"{where}: rows {first_row[identity]} and {row} have the same id '{identity}': make the ids unique"
            )
        first_row[identity] = row
        for name, text in (("problem", problem), ("answer", answer)):
            if text is not None and is_blank(text):
                raise SrtError(f"{where} row {row} (id '{identity}'): the {name} is empty: fill it or remove the row")
    if not first_row:
        raise SrtError(f"{where} has no rows: check the data set's filter and take")
    return pa.table(arrays, UNLABELLED_SCHEMA if unlabelled else PROBLEM_SCHEMA)


def write_problems(path: str | Path, table: pa.Table, name: str) -> str:
    """Check a problem table and write it atomically; return its fingerprint, which is stored in the metadata."""
    table = check(table, f"data set '{name}'")
    mark = fingerprint(table)
    io.write_parquet(path, table, {"dataset": name, "fingerprint": mark})
    return mark


def read_problems(path: str | Path) -> pa.Table:
    """Read a problem table and check schema, ids and answers; an `SrtError` names the file and row.

    Rows that do not match the fingerprint in the file's metadata are an error: the file has been edited. The metadata
    (`dataset`, `fingerprint`) stays in the table's schema.
    """
    table = check(io.read_parquet(path), str(path))
    metadata = io.parquet_metadata(path)
    if "fingerprint" in metadata and metadata["fingerprint"] != fingerprint(table):
        raise SrtError(f"{path} has been changed since it was written: delete it and rerun the rule that makes it")
    return table.replace_schema_metadata({io.METADATA_KEY: io.canonical_json(metadata).encode()})
