"""Run a workflow and show how far it is and how long it still takes: srt watch --cores N -- COMMAND ...

The command's output goes to a file. Jobs and seconds are those of `srt plan`, corrected by what the jobs took so far. A
terminal shows one line, which is kept up to date; a log gets a line every two minutes. The exit code is the command's;
if the command fails, the end of its output is shown.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from srt.artefacts.paths import Paths
from srt.cli.shared import add_configfile, configuration
from srt.common.errors import SrtError
from srt.common.progress import is_terminal

POLL = 0.5  # seconds between two looks at the command
SHOWN_LINES = 40  # of the output of a command that failed


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--cores", required=True, type=int, metavar="N", help="jobs that run at a time")
    parser.add_argument("--every", type=float, metavar="S", help="seconds between lines (10 in a terminal, else 120)")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="file for the command's output ({results}/logs/workflow.log)"
    )
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code, 128 + n for signal n."""
    from srt.plan.eta import Eta

    if args.cores < 1:
        raise SrtError("--cores must be at least 1")
    if args.every is not None and args.every <= 0:
        raise SrtError("--every must be more than 0 seconds")
    if shutil.which(args.command[0]) is None:
        raise SrtError(f"{args.command[0]} cannot be run as a program: correct the command after --")
    config = configuration(args)
    log = args.log or Path(Paths(config.results).log("workflow"))
    log.parent.mkdir(parents=True, exist_ok=True)
    every = args.every or (10.0 if is_terminal() else 120.0)
    eta = Eta(config, args.cores)
    # Ctrl-C reaches the command as well, which then ends its jobs: wait until it has
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "a", encoding="utf-8") as output:
        began = output.tell()
        child = subprocess.Popen(
            args.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            # the command must not inherit that Ctrl-C is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        show(f"{eta.progress().line()}; the output of the workflow: {log}", last=True)
        shown = time.monotonic()
        while child.poll() is None:
            time.sleep(POLL)
            if time.monotonic() - shown >= every:
                show(eta.progress().line(), last=not is_terminal())
                shown = time.monotonic()
    show(eta.progress().line(), last=True)
    if child.returncode:
        with open(log, encoding="utf-8", errors="replace") as output:
            output.seek(began)
            print("".join(output.readlines()[-SHOWN_LINES:]), file=sys.stderr, end="")
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def show(line: str, last: bool) -> None:
    """Write a line over the previous one in a terminal, below it elsewhere; nothing overwrites the last one."""
    start = "\r\x1b[K" if is_terminal() else ""
    print(f"{start}{time.strftime('%H:%M')} {line}", end="\n" if last else "", file=sys.stderr, flush=True)
