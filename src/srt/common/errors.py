"""Errors that a person can fix: one sentence that names the file, key or row, and the fix.

`SrtError` is raised wherever input is wrong, and `run_cli` turns it into one line on stderr and exit code 2. Any other
exception is a bug and keeps its traceback. No error is ever turned into a zero reward.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from srt.common.plain_text import printable

EXIT_USAGE = 2
EXIT_RESUME = 75  # EX_TEMPFAIL: the state is saved; run the same command again
EXIT_INTERRUPTED = 130
# errno values of errors that a person can fix; an OSError with any other errno keeps its traceback
ENVIRONMENT = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


class SrtError(Exception):
    """Wrong input or environment; the message is one sentence that says how to fix it, and is safe to print."""

    def __str__(self) -> str:
        return printable(super().__str__())


class Interrupted(Exception):
    """Asked to stop (SIGTERM or time budget) after the state was saved; exit code 75."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the closest of `known`, else the list of known names."""
    known = sorted(str(k) for k in known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{close[0]}'?)"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f" (known: {shown})" if known else ""


def describe_os_error(error: OSError) -> str:
    """One sentence for an operating-system error that users can fix."""
    names = [name for name in (error.filename2, error.filename) if name is not None]  # filename2 is the destination
    where = names[0] if names else "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"disk full while writing {where}: free space or point `results` to another disk, then rerun; "
            "nothing half-written was kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"no permission for {where}: make it accessible (chmod or chown) or point `results` elsewhere, then rerun"
        )
    if error.errno == errno.ENOENT:
        return f"{where} does not exist: check the path, or run the rule that makes it"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{where}, or a folder above it, is a file where a folder is needed: move it away or choose another path"
    if error.errno == errno.EISDIR:
        return f"{where} is a folder where a file is needed: move it away or choose another path"
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}: the name is too long for this file system: choose a shorter one"
    return f"{os.strerror(error.errno) if error.errno else error}: {where}"


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a script's main and exit: 0 done, 2 wrong input, 75 stopped with the state saved, 130 Ctrl-C."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except SrtError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_USAGE
    except Interrupted as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        code = EXIT_RESUME
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was kept; run the same command to resume", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except OSError as error:
        if error.errno in ENVIRONMENT:
            print(f"error: {printable(describe_os_error(error))}", file=sys.stderr)
            code = EXIT_USAGE
        else:
            raise
    sys.exit(code)
