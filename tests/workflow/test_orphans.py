"""Snakemake alone is killed and its jobs live on; Ctrl-C, once and twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from srt.workflow import orphans
from support import ROOT
from support.dag import copy_of_the_tree, snakemake

FAULTS = ["--profile", "workflow/profiles/local", "--configfile", "tests/cluster/faults.yaml", "--cores", "2"]
STEP = "results/faults/runs/gt-s1/step-14"
OUTPUTS = (f"{STEP}/model/model.safetensors", f"{STEP}/metrics.parquet")


def start(folder: Path, *args: str, log: str = "log") -> subprocess.Popen[bytes]:
    """Start Snakemake as a terminal does: leader of its processes, and Ctrl-C is not ignored."""
    with open(folder / log, "ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *args], cwd=folder, stdout=out, stderr=out, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 400
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


# -- jobs that outlive Snakemake ------------------------------------------------------------------------------------


def test_processes_of_this_results_folder_are_waited_for_and_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(orphans.VARIABLE, "")
    orphans.mark_jobs(tmp_path / "ours")
    ours = subprocess.Popen(["sleep", "600"])
    orphans.mark_jobs(tmp_path / "theirs")
    theirs = subprocess.Popen(["sleep", "600"])
    try:
        assert orphans.live_processes(tmp_path / "ours") == {ours.pid: "sleep"}
        looks: list[float] = []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                ours.kill()

        monkeypatch.setattr(orphans.time, "sleep", sleep)
        monkeypatch.setattr(orphans, "TELL_SECONDS", 0)
        again: list[int] = []
        orphans.wait_for_processes(tmp_path / "ours", lambda: again.append(1))
        said = capsys.readouterr().err
        assert again == [1] and len(looks) >= 3
        assert said.count(f"{ours.pid} (sleep); 0 min so far. Their work is kept.") >= 3
        assert f"kill {ours.pid} (training then resumes" in said and str(theirs.pid) not in said
        assert said.endswith("they have ended: planning again\n")
        orphans.wait_for_processes(tmp_path / "ours", lambda: again.append(1))
        assert again == [1], "nobody to wait for: no new start"
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.long
def test_a_trainer_that_outlives_snakemake_is_waited_for(tmp_path):
    """SIGKILL to Snakemake alone, then the same command: no step twice, no retry, the results of a quiet run."""
    folder = copy_of_the_tree(tmp_path / "clone")
    config = folder / "tests/cluster/faults.yaml"
    config.write_text(config.read_text().replace("tests/cluster/models.yaml", "tests/micro/models.yaml"))  # no GPUs
    snakemake(folder, *FAULTS, OUTPUTS[1])
    quiet = tmp_path / "quiet"
    shutil.copytree(folder, quiet, symlinks=True)
    for name in ("runs", "progress"):
        shutil.rmtree(folder / "results/faults" / name)
    journal = folder / "results/faults/progress/gt-s1/step-14/journal.jsonl"

    first = start(folder, *FAULTS, "--", OUTPUTS[1])
    try:
        wait_for(lambda: journal.exists() and '"step": 2' in journal.read_text(), first)
    finally:
        first.kill()
    first.wait()
    assert orphans.live_processes(folder / "results/faults"), "the trainer lives"
    second = start(folder, *FAULTS, "--", OUTPUTS[1], log="second")
    assert second.wait(400) == 0, (folder / "second").read_text()
    said = (folder / "second").read_text()
    assert "waiting for processes of an earlier start on results/faults: " in said
    assert "train.py); 0 min so far" in said and "they have ended: planning again" in said
    assert "Error in rule" not in said and "restart job" not in said
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 15))
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (quiet / name).read_bytes(), name


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------

RULES = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from srt.workflow.interrupts import interrupt_without_traceback
interrupt_without_traceback()
if "slow" in config:
    import time
    open("started", "w").close()
    time.sleep(600)

rule one:
    output: "x"
    shell: "trap '' INT; touch started; while [ ! -e go ]; do sleep 0.1; done; touch {{output}}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_no_traceback(times, tmp_path):
    """The first waits for a job that takes its time; the second ends the wait."""
    (tmp_path / "Snakefile").write_text(RULES)
    process = start(tmp_path, "--cores", "1")
    said = tmp_path / "log"
    try:
        wait_for((tmp_path / "started").exists, process)
        os.killpg(process.pid, signal.SIGINT)
        wait_for(lambda: "Terminating processes on user request" in said.read_text(), process)
        if times == 2:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
            assert "interrupted twice: jobs that still run end by themselves" in said.read_text()
    finally:
        (tmp_path / "go").touch()
    if times == 1:
        assert process.wait(60) == 1
    assert "Traceback" not in said.read_text() and "Exception ignored" not in said.read_text()


@pytest.mark.slow
def test_ctrl_c_while_rules_are_read_prints_no_traceback(tmp_path):
    (tmp_path / "Snakefile").write_text(RULES)
    process = start(tmp_path, "--cores", "1", "--config", "slow=1")
    wait_for((tmp_path / "started").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    said = (tmp_path / "log").read_text()
    assert "interrupted: nothing half-written was kept" in said and "Traceback" not in said


def test_a_process_that_ignores_ctrl_c_keeps_ignoring_it():
    """As one in the background of a shell script does."""
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from srt.workflow.interrupts import interrupt_without_traceback\n"
        "interrupt_without_traceback(); assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
