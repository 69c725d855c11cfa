"""Progress on stderr: a bar in a terminal, an occasional line in a log file."""

from __future__ import annotations

import io
import sys
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


def progress_bar(iterable: Any = None, **options: Any) -> tqdm:
    """A tqdm bar (`options` are tqdm's) that is updated often in a terminal and every 15 s in a log."""
    from tqdm import tqdm

    file: TextIO = sys.stderr if is_terminal() else _Lines(sys.stderr)  # type: ignore[assignment]
    return tqdm(iterable, file=file, mininterval=0.2 if is_terminal() else 15.0, **options)


def log(message: str) -> None:
    """Write one line to stderr, unbuffered; control characters are spelled out."""
    print(printable(message), file=sys.stderr, flush=True)
