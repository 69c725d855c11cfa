"""Ctrl-C in Snakemake: never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

from srt.common.errors import EXIT_INTERRUPTED

TWICE = "interrupted twice: jobs that still run end by themselves, and the same command waits for them"
ONCE = "interrupted: nothing half-written was kept; run the same command to resume"


def interrupt_without_traceback() -> None:
    """Ctrl-C ends Snakemake as before: it stops its jobs and waits for them. A second one ends the wait, at once.

    Snakemake waits for its jobs outside of its own handling of Ctrl-C, so there a second one ended as a traceback, and
    Python then waited for the same jobs once more. A process that ignores Ctrl-C keeps ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _first)
        sys.excepthook = _without_traceback


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _second)
    raise KeyboardInterrupt


def _second(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), f"\n{TWICE}\n".encode())  # `print` may be in the middle of another call
    os._exit(EXIT_INTERRUPTED)


def _without_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Called for exceptions that nobody handles; Ctrl-C while rules are read or jobs are planned is one."""
    if issubclass(kind, KeyboardInterrupt):
        print(ONCE, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, where)
