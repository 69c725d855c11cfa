"""Several processes stop together: SIGTERM, a time budget and wrong input end with the workers' exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from srt.cluster import launch
from srt.cluster.torchrun import exit_code
from srt.common.io import read_json
from srt.common.lock import folder_lock
from support import ROOT
from support.specs import train_spec
from support.training import command, script, segment, weights

STOP = 12
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # as set by torchrun


def start(args: list[str], said: Path, **environment: str) -> subprocess.Popen:
    """Start a launcher; its stderr and that of its processes go to a file."""
    own = {k: v for k, v in os.environ.items() if k not in TORCHRUN}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    with open(said, "w", encoding="utf-8") as file:
        return subprocess.Popen(args, stdout=file, stderr=file, env=own | environment)


def wait_until(moment: Callable[[], bool], process: subprocess.Popen, said: Path) -> None:
    deadline = time.monotonic() + 400
    while not moment():
        assert process.poll() is None and time.monotonic() < deadline, said.read_text(encoding="utf-8")
        time.sleep(0.01)


def ended(process: subprocess.Popen, said: Path, code: int) -> str:
    """Wait for the end, assert exit code `code` and no traceback, and return what was printed."""
    process.wait(timeout=400)
    text = said.read_text(encoding="utf-8")
    assert process.returncode == code, text
    assert "Traceback" not in text and "FAILED" not in text, text
    return text


# -- short workers ----------------------------------------------------------------------------------------------------


def workers(folder: Path, lines: str) -> list[str]:
    """The command that runs these lines in two processes; each knows its `rank`, and prints when it has started."""
    script = folder / "worker.py"
    begin = "import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n"
    begun = f"def begun():\n    pathlib.Path({str(folder)!r}, f'begun-{{rank}}').touch()\n"
    script.write_text(begin + begun + lines, encoding="utf-8")
    return launch.torchrun(1, 2, "", "", [str(script)])


def both_begun(folder: Path) -> Callable[[], bool]:
    return lambda: all((folder / f"begun-{rank}").exists() for rank in (0, 1))


@pytest.mark.slow
def test_workers_have_all_the_time_that_they_need_after_sigterm(tmp_path):
    """Longer than torchrun's own grace period, set to one second here; a second SIGTERM changes nothing."""
    lines = (
        "asked = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
        "begun()\n"
        "while not asked: time.sleep(0.01)\n"
        "time.sleep(3)\n"
        "sys.exit(75)\n"
    )
    said = tmp_path / "said"
    process = start(workers(tmp_path, lines), said, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1")
    wait_until(both_begun(tmp_path), process, said)
    process.terminate()
    time.sleep(0.5)
    process.terminate()
    ended(process, said, 75)


@pytest.mark.slow
def test_workers_that_do_not_listen_yet_end_at_once(tmp_path):
    said = tmp_path / "said"
    process = start(workers(tmp_path, "begun()\ntime.sleep(60)\n"), said)
    wait_until(both_begun(tmp_path), process, said)
    process.terminate()
    ended(process, said, 75)


@pytest.mark.slow
def test_a_failure_that_no_sentence_explains_is_told(tmp_path):
    said = tmp_path / "said"
    process = start(workers(tmp_path, "begun()\nsys.exit(7) if rank else time.sleep(60)\n"), said)
    assert process.wait(timeout=400) == 7
    text = said.read_text(encoding="utf-8")
    assert "exitcode  : 7" in text and "rank      : 1" in text and "Traceback (most recent call last)" not in text


@pytest.mark.parametrize(
    ("codes", "told", "code"),
    [
        ([75], False, 75), ([2, 1], False, 2), ([1, 75], True, 75), ([-15, 75], True, 75), ([1, -15], False, 1),
        ([-9, -15], False, 137), ([-15], True, 75), ([1, -15], True, 75), ([-15], False, 143), ([130, 1], False, 130),
    ],
)  # fmt: skip
def test_the_code_of_the_worker_that_says_why(codes, told, code):
    assert exit_code(codes, told) == code


# -- training ---------------------------------------------------------------------------------------------------------


def training(folder: Path, base: Path, sums: Path, nodes: int = 1, endpoint: str = "", **more: object) -> list[str]:
    """The command that trains with two processes on this node."""
    script = command(folder, base, sums, train_spec(), STOP, **more)[1:]
    return launch.torchrun(nodes, 2 // nodes, endpoint, "7", script)


def reached(work: Path) -> int:
    """The step of the newest state."""
    return max((int(p.name.removeprefix("state-")) for p in work.glob("state-*")), default=0)


def rank_one(launcher: subprocess.Popen) -> psutil.Process:
    """The worker whose only files are its part of a state."""
    (found,) = [p for p in psutil.Process(launcher.pid).children() if p.environ()["RANK"] == "1"]
    return found


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_save_say_75_and_go_on_to_the_same_bytes(tmp_path, tiny_base, sums):
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    said, work = tmp_path / "said", folder / "work" / f"step-{STOP}"
    ended(start(training(whole, tiny_base, sums), said), said, 0)
    args = training(folder, tiny_base, sums)

    process = start(args, said)  # only rank 1 gets the signal, and there is no time budget
    wait_until(lambda: reached(work) >= 2, process, said)
    rank_one(process).send_signal(signal.SIGTERM)
    text = ended(process, said, 75)
    assert "stopped: SIGTERM: state saved at step" in text and "time budget" not in text
    assert reached(work) >= 2 and not (folder / f"step-{STOP}").exists()

    before = reached(work)
    text = ended(start(training(folder, tiny_base, sums, minutes=1e-4), said), said, 75)
    assert "stopped: time budget of 0.0001 minutes: state saved at step" in text and reached(work) == before + 1

    args = training(folder, tiny_base, sums)  # writes the segment's file again, without the time budget
    text = ended(start(args, said), said, 0)
    assert f"resuming at step {before + 1} from" in text
    ours, theirs = (x / f"step-{STOP}" for x in (folder, whole))
    assert weights(ours) == weights(theirs)
    assert (ours / "metrics.parquet").read_bytes() == (theirs / "metrics.parquet").read_bytes()
    assert read_json(ours / "state/manifest.json") == read_json(theirs / "state/manifest.json")


@pytest.mark.slow
def test_sigterm_ends_the_wait_for_another_job_on_all_ranks(tmp_path, tiny_base, sums):
    args, said = training(tmp_path, tiny_base, sums, minutes=5), tmp_path / "said"
    with folder_lock(tmp_path / "work" / f"step-{STOP}"):
        process = start(args, said, SLURM_JOB_ID="7")
        wait_until(lambda: "waiting for process" in said.read_text(encoding="utf-8"), process, said)
        rank_one(process).send_signal(signal.SIGTERM)
        text = ended(process, said, 75)
    assert f"stopped: SIGTERM while waiting for process {os.getpid()} on" in text
    assert not (tmp_path / "work" / f"step-{STOP}" / "journal.jsonl").exists()


@pytest.mark.slow
def test_two_nodes_stop_when_one_is_told_to(tmp_path, tiny_base, sums):
    endpoint = f"127.0.0.1:{launch.free_port()}"
    args = training(tmp_path, tiny_base, sums, nodes=2, endpoint=endpoint)
    work, said = tmp_path / "work" / f"step-{STOP}", [tmp_path / "said-0", tmp_path / "said-1"]
    nodes = [start(args, file) for file in said]
    wait_until(lambda: reached(work) >= 1, nodes[0], said[0])
    nodes[1].terminate()
    for node, file in zip(nodes, said, strict=True):
        assert "stopped: SIGTERM: state saved at step" in ended(node, file, 75)


@pytest.mark.slow
def test_wrong_input_is_exit_code_2_with_its_sentence(tmp_path, tiny_base, sums):
    given, said = segment(tmp_path, tiny_base, train_spec(), 4, STOP, resume=tmp_path / "nowhere"), tmp_path / "said"
    text = ended(start(launch.torchrun(1, 2, "", "7", script(given, sums)), said), said, 2)
    assert f"error: {tmp_path}/nowhere/manifest.json does not exist" in text
