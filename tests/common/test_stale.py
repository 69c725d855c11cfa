"""The next attempt removes what a SIGKILL left half-written, but not what a live process is writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srt.common import atomic_files
from srt.common.lock import folder_lock
from srt.distributed.state import clear_up
from support import ROOT
from support.specs import train_spec

WRITER = """import sys, time
sys.path.insert(0, sys.argv[1])
from srt.common import atomic_files
kind, target = sys.argv[2:]
with getattr(atomic_files, kind)(target) as temporary:
    (temporary / "part" if kind == "atomic_dir" else temporary).write_text("half")
    print(temporary, flush=True)
    time.sleep(600)
"""


def writer(kind: str, target: Path) -> tuple[subprocess.Popen, Path]:
    """A process that is writing `target`, and its temporary path."""
    argv = [sys.executable, "-c", WRITER, str(ROOT / "src"), kind, str(target)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def write(kind: str, target: Path, text: str) -> None:
    with getattr(atomic_files, kind)(target) as temporary:
        (temporary / "part" if kind == "atomic_dir" else temporary).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("kind", ["atomic_dir", "atomic_path"])
def test_the_next_writer_removes_what_a_killed_one_left_but_not_what_a_live_one_writes(kind, tmp_path):
    target = tmp_path / "model"
    killed, left = writer(kind, target)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    alive, busy = writer(kind, target)
    try:
        assert not left.exists(), "the second writer is the next attempt"
        write(kind, target, "whole")
        assert busy.exists()
        assert names(tmp_path) == sorted([busy.name, "model"])
    finally:
        alive.kill()
        alive.wait()
    write(kind, target, "again")
    assert names(tmp_path) == ["model"]
    assert (target / "part" if kind == "atomic_dir" else target).read_text() == "again"


def elsewhere(target: Path, age: float) -> Path:
    """A temporary path of a process on another host, last changed `age` seconds ago."""
    left = target.with_name(f".{target.name}.0badcafe-{os.getpid()}.tmp")
    left.mkdir()
    (left / "part").write_text("half")
    then = left.stat().st_mtime - age
    for path in (left / "part", left):
        os.utime(path, (then, then))
    return left


def test_a_writer_on_another_host_is_believed_to_live_for_a_day(tmp_path):
    target = tmp_path / "state"
    young = elsewhere(target, 3600)
    write("atomic_dir", target, "whole")
    assert young.exists()
    os.utime(young, (0, 0))  # an old folder that holds a new file is still being written
    assert atomic_files.remove_stale(target) == []
    os.utime(young / "part", (0, 0))
    assert atomic_files.remove_stale(target) == [young] and names(tmp_path) == ["state"]


def test_under_the_targets_lock_every_leftover_goes(tmp_path):
    folder, target = tmp_path / "progress", tmp_path / "out" / "model"
    target.parent.mkdir()
    elsewhere(target, 0)
    with folder_lock(folder):
        (folder / ".state-7.tmp").mkdir()
        (folder / "state-6").mkdir()
        clear_up(folder, target, tmp_path / "not there" / "metrics.parquet")
        assert names(folder) == ["lock", "state-6"]
    assert names(target.parent) == []


def test_nobody_elses_files_are_touched(tmp_path):
    target = tmp_path / "model"
    others = [
        ".model.tmp",
        ".model.x-1.tmp",
        ".model2.0badcafe-1.tmp",
        "model.0badcafe-1.tmp",
        ".model.0badcafe-1.tmp~",
    ]
    for name in others:
        (tmp_path / name).write_text("")
    assert atomic_files.remove_stale(target, alone=True) == []
    (tmp_path / ".model.0badcafe-1.tmp").symlink_to(tmp_path / ".model.tmp")
    assert len(atomic_files.remove_stale(target, alone=True)) == 1
    assert names(tmp_path) == sorted(others)


def test_a_segment_begins_by_clearing_up(tiny_base, sums, tmp_path):
    """It removes what a killed attempt on another node left beside the outputs, and its incomplete state."""
    from support.training import train

    out = tmp_path / "step-1"
    out.mkdir()
    elsewhere(out / "model", 0)
    elsewhere(out / "state", 0)
    (tmp_path / "work" / "step-1" / ".state-9.tmp").mkdir(parents=True)
    train(tmp_path, tiny_base, sums, train_spec(), 1)
    assert (out / "model" / "model.safetensors").is_file()
    assert [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")] == []
