"""Run a workflow and show how far it is and how long it still takes: srt watch --cores N -- COMMAND ...

A terminal shows one line per stage and the time left, kept up to date. A log gets a line when a stage is done and one
every two minutes. The command's own output goes to a file, except warnings and the ends of the logs of failed jobs.
A page beside that file has the same and curves of the runs in training; a browser that shows it keeps it up to date.
Jobs and seconds are those of `srt plan`, corrected by what the jobs took so far. The exit code is the command's.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from srt.artefacts.paths import Paths
from srt.cli.shared import add_configfile, configuration
from srt.common.errors import SrtError, describe_os_error
from srt.common.progress import Screen, is_terminal

if TYPE_CHECKING:
    from srt.plan.eta import Eta
    from srt.report.run_page import RunPage

POLL = 0.5  # seconds between two looks at the command
LOOK = 10.0  # seconds between two looks at the files that its jobs make
SHOWN_LINES = 40  # of the output of a command that failed for another reason than a job


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--cores", required=True, type=int, metavar="N", help="jobs that run at a time")
    parser.add_argument(
        "--every", type=float, default=120.0, metavar="S", help="seconds between lines in a log (default: %(default)g)"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="file for the command's output ({results}/logs/workflow.log)"
    )
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code, 128 + n for signal n."""
    from srt.plan.eta import Eta
    from srt.report.run_page import RunPage
    from srt.workflow.interrupts import ONCE, TWICE
    from srt.workflow.output import Output

    if args.cores < 1:
        raise SrtError("--cores must be at least 1")
    if args.every <= 0:
        raise SrtError("--every must be more than 0 seconds")
    if shutil.which(args.command[0]) is None:
        raise SrtError(f"{args.command[0]} cannot be run as a program: correct the command after --")
    config = configuration(args)
    log = args.log or Path(Paths(config.results).log("workflow"))
    log.parent.mkdir(parents=True, exist_ok=True)
    page = RunPage(config, log)
    display = Display(Eta(config, args.cores), args.every, page)
    interrupts: list[int] = []
    # Ctrl-C reaches the command as well, which then ends its jobs: wait until it has
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    with open(log, "a", encoding="utf-8") as file:
        output = Output(log)
        child = subprocess.Popen(args.command, stdout=file, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    display.say(f"the output of the workflow: {log}; its page, kept up to date: {page.path}")
    told = 0
    while child.poll() is None:
        if len(interrupts) > told:
            told = len(interrupts)
            display.say("interrupted: the running jobs are ended; Ctrl-C again does not wait for them")
        display.tell(output.notes())
        display.update()
        time.sleep(POLL)
    display.tell(output.notes(ended=True))
    display.state = "stopped" if interrupts else "failed" if child.returncode else "done"
    display.show(log=not child.returncode)
    if interrupts:
        display.say(ONCE if len(interrupts) == 1 else TWICE)
    elif child.returncode and output.failed:
        jobs = f"{output.failed} job{'s' * (output.failed > 1)}"
        display.say(f"failed: {jobs} (the end of each log is above); run the same command to resume; all output: {log}")
    elif child.returncode:
        print(output.end(SHOWN_LINES), file=sys.stderr, end="")
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


class Display:
    """What is shown of a running workflow: stages and time left in a terminal, a few lines elsewhere.

    Args:
        eta: says how far the workflow is.
        every: seconds between two lines where there is no terminal.
        page: shows the same and more in a browser.
    """

    def __init__(self, eta: Eta, every: float, page: RunPage) -> None:
        self.eta, self.every, self.page = eta, every, page
        self.state, self.page_failed = "running", False
        self.screen = Screen()
        self.looked = self.logged = time.monotonic()
        self.done: set[str] = set()  # stages of which a log says so
        self.began = False  # whether a log has the first line on how far it is
        self.show()

    def say(self, message: str) -> None:
        """Show a message that stays, with the time of day."""
        self.screen.say(f"{time.strftime('%H:%M')} {message}")

    def tell(self, notes: Iterable[str]) -> None:
        """Show what the workflow's output says; failures are on the page as well."""
        for note in notes:
            self.say(note)
            if note.startswith("FAILED"):
                self.page.failures.append(note)

    def update(self) -> None:
        """Look at the files of the jobs if it is time to."""
        now = time.monotonic()
        if now - self.looked >= min(LOOK, self.every):
            self.looked = now
            self.show(log=now - self.logged >= self.every)

    def show(self, log: bool = False) -> None:
        """Show how far the workflow is; `log`: also where there is no terminal, as when its plan is known at first."""
        progress = self.eta.progress()
        try:
            self.page.write(progress, self.state)
        except OSError as error:  # such as a full disk: the workflow goes on, and so does this display
            if not self.page_failed:
                self.say(f"warning: the page is not up to date: {describe_os_error(error)}")
            self.page_failed = True
        if is_terminal():
            self.screen.show([*progress.table(), f"{time.strftime('%H:%M')} {progress.line()}"])
            return
        done = {stage.name: stage.jobs for stage in progress.stages if stage.done == stage.jobs}
        if not self.began:  # what is done before the first job is no news
            self.done = set(done)
        for name in [name for name in done if name not in self.done]:
            self.say(f"{name}: {done[name]} of {done[name]} done")
            self.done.add(name)
        if log or (self.eta.plan_known and not self.began):
            self.say(progress.line())
            self.logged, self.began = time.monotonic(), self.eta.plan_known
