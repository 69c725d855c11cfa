"""Progress: a bar in a terminal, nothing that scrolls in a log (scripts log lines of their own there)."""

from __future__ import annotations

import io
import sys
from typing import TextIO


class _Lines(io.TextIOBase):
    """Turns a bar's carriage returns into rare whole lines, for log files."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        line = text.replace("\r", "").strip()
        if line:
            self.stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def is_terminal() -> bool:
    """True when stderr is a terminal."""
    return sys.stderr.isatty()


def progress_file() -> TextIO:
    """Where tqdm writes: stderr, as a bar in a terminal and as lines in a log."""
    return sys.stderr if is_terminal() else _Lines(sys.stderr)  # type: ignore[return-value]


def interval() -> float:
    """Seconds between two updates: often in a terminal, seldom in a log."""
    return 0.2 if is_terminal() else 15.0


def log(message: str) -> None:
    """One line to stderr, at once."""
    print(message, file=sys.stderr, flush=True)
