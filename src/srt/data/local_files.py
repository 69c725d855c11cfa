"""Read tables of unknown layout from parquet, JSON Lines and JSON files, without interpreting their columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srt.common import io
from srt.common.errors import SrtError

Rows = list[dict[str, Any]]


def read_rows(path: Path) -> tuple[list[str], Rows]:
    """Column names and rows of a `.parquet`, `.jsonl` or `.json` (list of objects) file.

    The columns of a JSON file are the union of its rows' keys, in order of appearance; a row may lack some.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = io.read_parquet(path)
        return list(table.column_names), table.to_pylist()
    if suffix in (".jsonl", ".ndjson"):
        rows = _json_lines(path)
    elif suffix == ".json":
        rows = _json_list(path)
    else:
        raise SrtError(f"{path}: cannot read files that end in '{suffix}': use .parquet, .jsonl or .json")
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: correct the path, or set the folder of local data") from None
    except UnicodeDecodeError as error:
        raise SrtError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _json_lines(path: Path) -> Rows:
    rows = []
    # split("\n") rather than splitlines(): JSON strings may contain U+2028
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise SrtError(f"{path} line {number} is not JSON ({error}): correct or remove the line") from None
        if not isinstance(row, dict):
            raise SrtError(f"{path} line {number} is a JSON {type(row).__name__}, not an object: write one per line")
        rows.append(row)
    return rows


def _json_list(path: Path) -> Rows:
    try:
        value = json.loads(_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SrtError(
            f"{path} is not JSON ({error}): correct it, or name a file of one object per line .jsonl"
        ) from None
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise SrtError(f"{path} is not a JSON list of objects: write [{{...}}, ...], or one object per line as .jsonl")
    return value
