"""Progress on stderr: a bar in a terminal, an occasional line in a log file."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from srt.common.plain_text import printable

if TYPE_CHECKING:
    from tqdm import tqdm


class _Lines(io.TextIOBase):
    """Turns the carriage returns of a bar into whole lines, for log files."""

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
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


class Screen:
    """Lines at the bottom of a terminal that are written anew in their place, and messages above them.

    Where stderr is no terminal, only the messages are written.
    """

    def __init__(self) -> None:
        self._shown = 0  # lines that stand at the bottom now
        self._lines: Sequence[str] = ()

    def show(self, lines: Sequence[str]) -> None:
        """Replace the lines at the bottom; what does not fit into the window is cut."""
        self._lines = lines
        if is_terminal():
            size = shutil.get_terminal_size()
            fitting = [line[: size.columns - 1] for line in lines[-(size.lines - 1) :]]
            self._write([*fitting])
            self._shown = len(fitting)

    def say(self, message: str) -> None:
        """Write one or more lines that stay."""
        self._write([message])
        self._shown = 0
        self.show(self._lines)

    def _write(self, lines: Sequence[str]) -> None:
        up = f"\x1b[{self._shown}F\x1b[J" if self._shown else ""  # to the first of the lines; clear from there on
        print(up + "".join(f"{line}\n" for line in lines), end="", file=sys.stderr, flush=True)


def progress_bar(iterable: Any = None, **options: Any) -> tqdm:
    """A tqdm bar (`options` are tqdm's) that is updated often in a terminal and every 15 s in a log."""
    from tqdm import tqdm

    file: TextIO = sys.stderr if is_terminal() else _Lines(sys.stderr)  # type: ignore[assignment]
    return tqdm(iterable, file=file, mininterval=0.2 if is_terminal() else 15.0, **options)


def log(message: str) -> None:
    """Write one line to stderr, unbuffered; control characters are spelled out."""
    print(printable(message), file=sys.stderr, flush=True)
