"""Atomic files and fingerprints: a reader sees the old file or the new one, never a half of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from srt.common.errors import SrtError

METADATA_KEY = b"srt"


_FULL = ("(os error 28)", "(os error 122)", "[Errno 28]", "[Errno 122]", "unexpected pos")  # the last one is torch's


@contextlib.contextmanager
def naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let errors of writing name `path`: not its temporary name, not the source of a copy, not nothing.

    A full disk is an OSError with its number here, also where safetensors, tokenizers, torch and shutil say it in
    exceptions of their own.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if error.errno is not None and (full or str(error.filename).startswith(str(temporary))):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        if error.errno is None and any(sign in str(error) for sign in _FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


# -- temporary names: a process killed in mid-write leaves its own behind, and the next writer of that file removes it

STALE_SECONDS = 24 * 3600.0  # without a change, for a writer that cannot be looked at: another host, an earlier boot


@functools.cache
def _place() -> str:
    """8 hex digits that tell where process ids mean the same: host, boot, container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_place()}-{os.getpid()}.tmp")


def _is_written(temporary: Path, place: str, process: int) -> bool:
    """Whether somebody may still write a temporary file or folder."""
    if place == _place():
        if process == os.getpid():
            return False
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    inside = [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]
    return time.time() - max(each.lstat().st_mtime for each in inside) < STALE_SECONDS


def remove_stale(path: str | Path, alone: bool = False) -> list[Path]:
    """Remove what killed writers of `path` left beside it; return what was removed.

    A live writer's is left alone: one of this machine is looked at, one of another is believed to live for a day after
    its last change. `alone`: the caller holds a lock on the target, so that there is no other writer.
    """
    path, removed = Path(path), []
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-(\d+)\.tmp")
    for entry in list(path.parent.iterdir()) if path.parent.is_dir() else []:
        match = pattern.fullmatch(entry.name)
        with contextlib.suppress(FileNotFoundError):  # another one removes it too
            if match and (alone or not _is_written(entry, match[1], int(match[2]))):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
                removed.append(entry)
    return removed


def flush(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # a file system that cannot, of a folder
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    temporary = _temporary(path)
    try:
        with naming(path, temporary):
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """As `atomic_path` for a folder: `path` appears whole, replacing what was there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    temporary = _temporary(path)
    try:
        with naming(path, temporary):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    flush(file)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically as UTF-8 with the line ends that it has."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Specs are compared and hashed in this form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable, sorted JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a `SrtError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: run the rule that makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SrtError(f"{path} is not JSON ({error}): delete it and rerun the rule that makes it") from None


def parse_spec(text: str, needs: Iterable[str] = (), kind: type = dict) -> Any:
    """The value of a `--spec` option: JSON text of a `kind`, an object with the keys `needs`; else a `SrtError`."""
    try:
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
    """Write a table as CSV, atomically; floats with 10 significant digits, so equal numbers give equal bytes."""
    write_text(path, frame.to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def write_parquet(path: str | Path, table: pa.Table | pd.DataFrame, metadata: dict[str, Any] | None = None) -> None:
    """Write a table as parquet, atomically, with `metadata` (JSON) under the schema key `srt`."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    table = table.replace_schema_metadata({METADATA_KEY: canonical_json(metadata or {}).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a parquet file; a missing or broken one is a `SrtError` that names it."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: run the rule that makes it, or correct the path") from None
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # no permission, …: not the file's fault
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> SrtError:
    first = str(error).splitlines()[0]
    return SrtError(f"{path} is not a readable parquet file ({first}): delete it and make it again")


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a whole parquet file; asked-for columns that it lacks are named in a `SrtError`."""
    with open_parquet(path) as file:
        missing = [c for c in columns or [] if c not in file.schema_arrow.names]
        if missing:
            raise SrtError(f"{path} lacks the column '{missing[0]}' (it has: {', '.join(file.schema_arrow.names)})")
        try:
            return file.read(columns=columns)
        except (pa.ArrowException, OSError) as error:  # a damaged page
            raise _unreadable(path, error) from None


def parquet_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_parquet` stored ({} for a foreign file)."""
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
