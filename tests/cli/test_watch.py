"""`srt watch`: what a person sees of a running workflow, in a terminal and in a log, when it fails and on Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srt.common import progress
from srt.common.progress import Screen
from srt.plan.eta import Progress, Stage
from srt.workflow.output import LOG_LINES, Output
from support import ROOT
from support.commands import srt

WATCH = ("--configfile", "config/mini.yaml", "--cores", "2", "--every", "0.5")


def watch(folder: Path, *command: str, code: int = 0) -> str:
    """What `srt watch` prints while it runs a command."""
    return srt("watch", *WATCH, "--log", folder / "out.log", "--", *command, code=code).stderr


@pytest.mark.slow
def test_it_hands_on_what_the_command_says(tmp_path: Path) -> None:
    said = watch(tmp_path, "bash", "-c", "echo noise; echo 'warning: old version'; sleep 2")
    assert "jobs done after" in said and re.search(r"^\d\d:\d\d warning: old version$", said, re.MULTILINE)
    page = f"its page, kept up to date: {tmp_path}/out.html"
    assert "noise" not in said and f"the output of the workflow: {tmp_path}/out.log; {page}\n" in said
    assert "finished" in (tmp_path / "out.html").read_text()
    assert (tmp_path / "out.log").read_text() == "noise\nwarning: old version\n"
    (tmp_path / "out.html").unlink()
    (tmp_path / "out.html").mkdir()  # the page is no reason to stop
    failed = watch(tmp_path, "bash", "-c", "echo the reason >&2; exit 3", code=3)
    assert failed.endswith("the reason\n") and "noise" not in failed
    assert failed.count("warning: the page is not up to date: ") == 1


@pytest.mark.slow
def test_ctrl_c_waits_for_the_command_and_says_so(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "srt.cli", "watch", *WATCH, "--log", str(tmp_path / "out.log"), "--",
         "bash", "-c", "trap 'sleep 0.7; exit 7' INT; echo ready; while true; do sleep 0.1; done"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (tmp_path / "out.log").exists() or not (tmp_path / "out.log").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 7
    assert said.index("interrupted: the running jobs are ended") < said.index("interrupted: nothing half-written")
    assert "Traceback" not in said


FAILED = """Job 3: Train srt-s1/step-4
[Sun Nov 29 19:46:23 2026]
Error in rule train:
    message: None
    jobid: 3
    output: x
    log: {log} (check log file(s) for error details)
    shell:
        python train.py
        (command exited with non-zero exit code)
Logfile {log}:
"""


def test_a_failed_job_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    out, log = tmp_path / "out.log", tmp_path / "train.log"
    log.write_text("".join(f"line {i}\n" for i in range(40)) + "SrtError: \x1b[31mdisk full\n")
    out.write_text(FAILED.format(log="of an earlier start"))
    output = Output(out)
    with open(out, "a") as file:
        file.write(FAILED.format(log=log)[:200])
        file.flush()
        assert list(output.notes()) == [], "the block is not complete"
        file.write(FAILED.format(log=log)[200:] + "Error in rule fig2:\n    jobid: 4\nError in group x:\n")
    first, second = output.notes()
    lines = first.splitlines()
    assert lines[0] == f"FAILED: Train srt-s1/step-4; the end of {log}:" and len(lines) == 1 + LOG_LINES
    assert lines[-2:] == ["  | line 39", "  | SrtError: \\x1b[31mdisk full"]
    assert second == "FAILED: fig2" and list(output.notes(ended=True)) == ["FAILED: a group of jobs"]
    assert output.failed == 3 and output.end(1) == "Error in group x:\n"


def test_a_log_that_is_gone_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    output = Output(out)
    out.write_text(FAILED.format(log="gone.log"))
    assert list(output.notes(ended=True)) == ["FAILED: Train srt-s1/step-4; the end of gone.log:"]


def test_a_terminal_has_a_line_per_stage_that_is_written_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((20, 3)))
    screen = Screen()
    screen.show(["data", "training"])
    screen.say("a warning")
    screen.show(["x" * 30, "data", "training"])
    up = "\x1b[2F\x1b[J"
    assert capsys.readouterr().err == f"data\ntraining\n{up}a warning\ndata\ntraining\n{up}data\ntraining\n"


def test_where_there_is_no_terminal_only_messages_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.show(["data", "training"])
    screen.say("a warning")
    assert capsys.readouterr().err == "a warning\n"


def test_bars_of_stages_are_full_only_at_the_end() -> None:
    table = Progress(0, 0, 0.0, 0.0, (Stage("data", 999, 1000), Stage("training", 4, 4))).table()
    assert table == [f"  data      {'#' * 19}.  999 of 1000", f"  training  {'#' * 20}    4 of 4"]
