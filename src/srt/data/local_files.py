"""Read tables of unknown layout from parquet, JSON Lines, JSON and CSV files, without interpreting their columns."""

from __future__ import annotations

import csv
import io as text_io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from srt.common import io
from srt.common.errors import SrtError
from srt.common.own_code import load

Rows = list[dict[str, Any]]


def read_rows(path: Path) -> tuple[list[str], Rows]:
    """Column names and rows of a `.parquet`, `.jsonl`, `.json` (list of objects) or `.csv` (with a header) file.

    The columns of a JSON file are the union of its rows' keys, in order of appearance; a row may lack some. Cells of a
    CSV file are text.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = io.read_parquet(path)
        return _once(path, table.column_names), table.to_pylist()
    if suffix == ".csv":
        return _csv(path)
    if suffix in (".jsonl", ".ndjson"):
        rows = _json_lines(path)
    elif suffix == ".json":
        rows = _json_list(path)
    else:
        raise SrtError(f"{path}: cannot read files that end in '{suffix}': use .parquet, .jsonl, .json or .csv")
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def read_own(path: Path, reader: str) -> tuple[list[str], Rows]:
    """Like `read_rows`, by a function of the user, which gets the path and returns (or yields) a mapping per row."""
    if not path.is_file():
        raise SrtError(f"{path} does not exist: correct `path`")
    try:
        rows = [dict(row) for row in load("reader", reader)(path=path)]
    except (TypeError, ValueError) as error:
        raise SrtError(f"{path}: {reader} did not return a list of mappings: {error}") from error
    return list(dict.fromkeys(str(key) for row in rows for key in row)), rows


def _once(path: Path, names: list[str]) -> list[str]:
    """The names of columns; an error if one appears twice, since a row could hold only one of them."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SrtError(f"{path}: column '{twice[0]}' appears twice: rename or remove one")
    return list(names)


def _csv(path: Path) -> tuple[list[str], Rows]:
    lines = csv.reader(text_io.StringIO(_text(path)), strict=True)
    names: list[str] = []
    rows = []
    try:
        for cells in lines:
            if not cells:  # a blank line
                continue
            if not names:
                names = _once(path, cells)
                continue
            if len(cells) != len(names):
                raise SrtError(
                    f"{path} line {lines.line_num}: has {len(cells)} cells, and the header {len(names)}: quote cells "
                    "that hold a comma"
                )
            rows.append(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise SrtError(f"{path} line {lines.line_num} is not CSV ({error}): correct or remove the line") from None
    return names, rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: correct the path, or set the folder of local data") from None
    except UnicodeDecodeError as error:
        raise SrtError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


class _Repeating(dict[str, Any]):
    """A JSON object with a key that appears twice; json.loads would silently keep the last value."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        made = _Repeating(made)
        made.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return made


def _repeated_key(value: Any) -> str | None:
    """The first repeated key in a JSON value."""
    if isinstance(value, _Repeating):
        return value.key
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for part in parts if (key := _repeated_key(part)) is not None), None)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _json_lines(path: Path) -> Rows:
    rows = []
    # split("\n") rather than splitlines(): JSON strings may contain U+2028
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _loads(line)
            repeated = _repeated_key(row)
        except (ValueError, RecursionError) as error:
            raise SrtError(f"{path} line {number} is not JSON ({error}): correct or remove the line") from None
        if not isinstance(row, dict):
            raise SrtError(f"{path} line {number} is a JSON {type(row).__name__}, not an object: write one per line")
        if repeated is not None:
            raise SrtError(f"{path} line {number}: key '{repeated}' appears twice: rename or remove one")
        rows.append(row)
    return rows


def _json_list(path: Path) -> Rows:
    try:
        value = _loads(_text(path))
        repeated = [_repeated_key(row) for row in value] if isinstance(value, list) else []
    except (ValueError, RecursionError) as error:
        raise SrtError(
            f"{path} is not JSON ({error}): correct it, or name a file of one object per line .jsonl"
        ) from None
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise SrtError(f"{path} is not a JSON list of objects: write [{{...}}, ...], or one object per line as .jsonl")
    for row, key in enumerate(repeated):
        if key is not None:
            raise SrtError(f"{path} row {row}: key '{key}' appears twice: rename or remove one")
    return value
