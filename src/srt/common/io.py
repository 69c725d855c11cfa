"""JSON, CSV and parquet files, written atomically, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from srt.common.atomic_files import atomic_path
from srt.common.errors import SrtError
from srt.common.plain_text import spreadsheet_cell

METADATA_KEY = b"srt"


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically as UTF-8, line ends unchanged."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, by which specs are compared and hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable, sorted JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; an `SrtError` names a missing or broken file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: run the rule that makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SrtError(f"{path} is not JSON ({error}): correct the path, or delete it and rerun") from None


def parse_spec(text: str, needs: Iterable[str] = (), kind: type = dict) -> Any:
    """Parse a `--spec` option, JSON or @FILE that holds it: of type `kind` and, for an object, with the keys `needs`.

    Raises:
        SrtError: it is something else.
    """
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise SrtError(f"--spec is not JSON ({error}): quote it as one argument") from None
    if not isinstance(spec, kind):
        raise SrtError(f"--spec is a JSON {type(spec).__name__}, not a {kind.__name__}: see --help")
    missing = [key for key in needs if key not in spec]
    if missing:
        raise SrtError(f"--spec lacks the key '{missing[0]}' (it needs: {', '.join(needs)})")
    return spec


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table atomically as CSV.

    Floats have 10 significant digits, so that equal numbers give equal bytes. Text that a spreadsheet would take for a
    formula, or a terminal for a command, is neutralised (`spreadsheet_cell`).
    """
    frame = frame.apply(_safe_column)
    write_text(path, frame.to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def _safe_column(column: pd.Series) -> pd.Series:
    if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
        return column
    cells = [spreadsheet_cell(value) if isinstance(value, str) else value for value in column]
    return pd.Series(cells, index=column.index, dtype=object)  # else pandas would guess a type


def write_parquet(path: str | Path, table: pa.Table | pd.DataFrame, metadata: dict[str, Any] | None = None) -> None:
    """Write a table atomically as parquet, with `metadata` as JSON under the schema key `srt`."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    table = table.replace_schema_metadata({METADATA_KEY: canonical_json(metadata or {}).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a parquet file; an `SrtError` names a missing or broken file."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: run the rule that makes it, or correct the path") from None
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # no permission and the like: the file may be intact
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> SrtError:
    first = str(error).splitlines()[0]
    return SrtError(f"{path} is not a readable parquet file ({first}): correct the path, or delete it and rerun")


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a whole parquet file, or some `columns`; an `SrtError` names a missing column or a broken file."""
    with open_parquet(path) as file:
        missing = [c for c in columns or [] if c not in file.schema_arrow.names]
        if missing:
            raise SrtError(f"{path} lacks the column '{missing[0]}' (it has: {', '.join(file.schema_arrow.names)})")
        try:
            return file.read(columns=columns)
        except (pa.ArrowException, OSError) as error:  # a damaged page
            raise _unreadable(path, error) from None


def parquet_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_parquet` stored; {} for any other file."""
    with open_parquet(path) as file:
        raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    return json.loads(raw) if raw else {}


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def spec_hash(spec: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a spec's canonical JSON."""
    return sha256_bytes(canonical_json(spec).encode())[:16]
