"""Run a workflow and show how far it is and how long it still takes: watch.py --configfile C --cores N -- COMMAND …

The command's output goes to a file. Jobs and seconds are those of `snakemake plan`, corrected by what the jobs took so
far (srt.plan.eta). In a terminal one line is kept up to date; else a line comes every few minutes. The exit code is the
command's; a command that fails has the end of its output shown.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli

POLL = 0.5  # seconds between two looks at the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", required=True, type=Path, help="configuration that the command runs")
    parser.add_argument("--cores", required=True, type=int, help="jobs at a time")
    parser.add_argument("--every", type=float, help="seconds between two lines (10 in a terminal, else 120)")
    parser.add_argument(
        "--log", type=Path, help="file for the command's output (default: its results, logs/workflow.log)"
    )
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    args = parser.parse_args()

    from srt.common.errors import SrtError
    from srt.common.progress import is_terminal
    from srt.config import load_config, read_yaml
    from srt.plan.eta import Eta

    if args.cores < 1:
        raise SrtError("--cores must be at least 1")
    config = load_config(read_yaml(args.configfile), Path.cwd(), str(args.configfile), [args.configfile])
    log = args.log or Path(config.results, "logs", "workflow.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    every = args.every or (10.0 if is_terminal() else 120.0)
    eta = Eta(config, args.cores)
    # Ctrl-C reaches the command as well, which then ends its jobs: wait for it instead of leaving it alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "a", encoding="utf-8") as output:
        began = output.tell()
        # the command must not take over that it ignores Ctrl-C
        child = subprocess.Popen(
            args.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        show(f"{eta.left().line()}; the output of the workflow: {log}", last=True)
        shown = time.monotonic()
        while child.poll() is None:
            time.sleep(POLL)
            if time.monotonic() - shown >= every:
                show(eta.left().line(), last=not is_terminal())
                shown = time.monotonic()
    show(eta.left().line(), last=True)
    if child.returncode:
        with open(log, encoding="utf-8", errors="replace") as output:
            output.seek(began)
            print("".join(output.readlines()[-40:]), file=sys.stderr, end="")
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def show(line: str, last: bool) -> None:
    """Write a line over the one before in a terminal, below it elsewhere."""
    from srt.common.progress import is_terminal

    start = "\r\x1b[K" if is_terminal() else ""
    print(f"{start}{time.strftime('%H:%M')} {line}", end="\n" if last else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_cli(main)
