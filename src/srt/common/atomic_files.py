"""Atomic files and folders: a reader sees the old one or the new one, never a half-written one.

Their permissions are those that the umask gives, also where a library creates its files for their owner alone
(safetensors does).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

# How libraries report a full disk in the text of their exceptions; the last one is torch's.
_FULL = ("(os error 28)", "(os error 122)", "[Errno 28]", "[Errno 122]", "unexpected pos")


@contextlib.contextmanager
def errors_named_after(path: Path, temporary: Path) -> Iterator[None]:
    """Make write errors name `path` instead of its temporary name, the source of a copy, or no file.

    A full disk becomes an OSError with its errno, also if safetensors, tokenizers, torch or shutil report it in
    their own exceptions.
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


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free one of NAME.damaged, NAME.damaged-2, …; return its new path."""
    number = 1
    while True:
        aside = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not os.path.lexists(aside):
            os.replace(path, aside)
            return aside
        number += 1


# -- temporary names: a process killed while writing leaves its file behind, and the next writer of that path removes it

STALE_SECONDS = 24 * 3600.0  # without a change, for a writer that cannot be looked up (another host, before a reboot)


@functools.cache
def _place() -> str:
    """8 hex digits that identify where process ids are comparable: host, boot, container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_place()}-{os.getpid()}.tmp")


def _is_written(temporary: Path, place: str, process: int) -> bool:
    """Whether a process may still be writing a temporary file or folder."""
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
    """Remove temporary files that killed writers of `path` left beside it; return the removed paths.

    Files of live writers are kept. A process of this machine is looked up; one of another machine counts as alive for a
    day after its last change. `alone`: the caller holds a lock on the target, so that there is no other writer.
    """
    path, removed = Path(path), []
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-(\d+)\.tmp")
    for entry in list(path.parent.iterdir()) if path.parent.is_dir() else []:
        match = pattern.fullmatch(entry.name)
        with contextlib.suppress(FileNotFoundError):  # another process may remove it too
            if match and (alone or not _is_written(entry, match[1], int(match[2]))):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
                removed.append(entry)
    return removed


def remove_folder(path: Path) -> None:
    """Remove a folder; a kill leaves a temporary name, which `remove_stale` removes, never half of the folder."""
    gone = _temporary(path)
    path.rename(gone)
    shutil.rmtree(gone)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _permit(file: Path, mode: int) -> None:
    """Give a file the permissions `mode`."""
    if file.stat().st_mode & 0o777 != mode:
        with contextlib.suppress(PermissionError):  # a hard link to a file of another user
            file.chmod(mode)


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """Yield the temporary path that a writer of `path` uses; its errors name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    temporary = _temporary(path)
    with errors_named_after(path, temporary):
        yield temporary


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it replaces `path`; on any error it is removed."""
    with _written_beside(Path(path)) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode & 0o777  # os.umask cannot be read without changing it for all threads
            temporary.unlink()
            yield temporary
            _permit(temporary, mode)
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Like `atomic_path`, for a folder: `path` appears whole and replaces an existing folder."""
    path = Path(path)
    with _written_beside(path) as temporary:
        try:
            temporary.mkdir()
            mode = temporary.stat().st_mode & 0o666
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _permit(file, mode)
                    fsync(file)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
