"""What a running Snakemake writes into a file, and what of it a person should see at once (`srt watch`).

Everything depends on the texts of Snakemake's default log and of this project's messages. A text that is not known is
not shown, and stays in the file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from srt.common.plain_text import printable

LOG_LINES = 12  # of the log of a failed job
# Lines of this project that ask for a person's attention (rules/lifecycle.smk, srt.workflow.orphans).
SHOWN = ("warning: ", "waiting for ", "out of memory: ")
_FAILED = re.compile(r"Error in rule (\w+)|Error in group")
_JOB = re.compile(r"Job (\d+): (.+)")  # when it starts
_ID = re.compile(r"    jobid: (\d+)")
_LOG = re.compile(r"    log: (.+) \(check log file\(s\) for error details\)")


class Output:
    """Follows a file of output from where it ends now.

    failed: the number of failures so far; a job that is tried again counts once for each attempt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.exists() else 0
        self._start = self._place
        self._rest = b""  # of the last line, which is not complete
        self._messages: dict[str, str] = {}  # of each job, by its id
        self._failure: dict[str, str] | None = None
        self.failed = 0

    def notes(self, ended: bool = False) -> Iterator[str]:
        """What was written since the last call and should be shown, each as one or more lines.

        Args:
            ended: whether the program has ended, so that the last line is complete.
        """
        with open(self._path, "rb") as file:
            file.seek(self._place)
            text = self._rest + file.read()
            self._place = file.tell()
        *lines, self._rest = text.split(b"\n")
        if ended:
            lines.append(self._rest)
            lines.append(b"")  # ends the block of a failure
        for line in lines:
            yield from self._read(line.decode("utf-8", "replace").rstrip("\r"))

    def end(self, lines: int) -> str:
        """The last lines that were written since this object was made."""
        with open(self._path, "rb") as file:
            file.seek(self._start)
            last = deque((line.decode("utf-8", "replace") for line in file), maxlen=lines)
        return "".join(printable(line) for line in last)

    def _read(self, line: str) -> Iterator[str]:
        if self._failure is not None:
            if line.startswith("    "):
                if found := _ID.match(line):
                    self._failure["name"] = self._messages.get(found[1], self._failure["name"])
                elif found := _LOG.match(line):
                    self._failure["log"] = found[1]
                return
            yield _told(self._failure)
            self._failure = None
        if found := _FAILED.match(line):
            self.failed += 1
            self._failure = {"name": found[1] or "a group of jobs"}
        elif found := _JOB.match(line):
            self._messages[found[1]] = found[2]
        elif line.startswith(SHOWN):
            yield printable(line)


def _told(failure: dict[str, str]) -> str:
    """A failed job in one line, and below it the end of its log."""
    name = printable(failure["name"])
    if "log" not in failure:
        return f"FAILED: {name}"
    said = [f"FAILED: {name}; the end of {printable(failure['log'])}:"]
    for path in map(Path, failure["log"].split(", ")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        said += [f"  | {printable(line)}" for line in text.splitlines()[-LOG_LINES:]]
    return "\n".join(said)
