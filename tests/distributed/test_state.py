"""States on disk: a kill at any system call of a commit leaves a complete one; anything else is refused."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srt.common.errors import SrtError
from srt.common.io import read_json, sha256_file, spec_hash, write_json
from srt.distributed.state import append_journal, check_state, clear_up, commit_state, states

SPEC: dict[str, Any] = {"run": "toy"}
CALLS = ("replace", "unlink", "rmdir", "fsync")  # functions of os, also called through shutil


def commit(folder: Path, step: int, content: str) -> Path:
    """A state of one file."""
    final, temporary = folder / f"state-{step}", folder / f".state-{step}.tmp"
    (temporary / "engine").mkdir(parents=True)
    (temporary / "engine" / "weights.pt").write_text(content, encoding="utf-8")
    progress = {"step": step, "spec": spec_hash(SPEC), "inputs": None, "world_size": 1, "metrics": []}
    commit_state(final, temporary, progress, {})
    return final


def killed_at(number: int, act: Callable[[], Any]) -> bool:
    """Kill a child at its call `number` (from 0) of one of CALLS; return whether it got that far."""
    child = os.fork()
    if not child:
        left = itertools.count(number, -1)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def inner(*args: Any, **more: Any) -> Any:
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **more)

            return inner

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])
def test_a_kill_at_any_call_leaves_a_whole_state(tmp_path, step):
    """A new state of the same step or the next: after clearing up, either it or the old one exists, nothing else."""
    seen = []
    for number in itertools.count():
        folder = tmp_path / str(number)
        commit(folder, 3, "old")
        killed = killed_at(number, lambda folder=folder: commit(folder, step, "new"))
        clear_up(folder)
        newest = states(folder)[-1]
        assert check_state(newest, SPEC, 1)["step"] in (3, step)
        seen.append((newest / "engine" / "weights.pt").read_text(encoding="utf-8"))
        assert not list(folder.glob(".*")), "hidden files remain"
        assert commit(folder, step, "again") == states(folder)[-1]
        if not killed:
            break
    assert seen == sorted(seen, reverse=True) and {"old", "new"} == set(seen) and len(seen) > 10


def test_a_manifest_that_lists_nothing_is_no_state(tmp_path):
    state = commit(tmp_path, 3, "weights")
    for manifest in ({}, [], ["progress.json"], "progress.json", {"engine/weights.pt": "0"}, None):
        write_json(state / "manifest.json", manifest)
        with pytest.raises(SrtError, match=rf"{state}/manifest.json does not list a training state's files: delete"):
            check_state(state, SPEC, 1)


@pytest.mark.parametrize("key", ["step", "spec", "world_size", "metrics"])
def test_progress_of_something_else_is_no_state(tmp_path, key):
    state = commit(tmp_path, 3, "weights")
    whole = read_json(state / "progress.json")
    for progress in ({k: v for k, v in whole.items() if k != key}, {}, [], [key], None):
        write_json(state / "progress.json", progress)
        write_json(state / "manifest.json", {"progress.json": sha256_file(state / "progress.json")})
        missing = key if isinstance(progress, dict) and progress else "step"
        with pytest.raises(SrtError, match=rf"{state}/progress.json lacks '{missing}', so this is not a training"):
            check_state(state, SPEC, 1)


def test_a_folder_in_place_of_the_journal_is_set_aside(tmp_path, capsys):
    (tmp_path / "journal.jsonl").mkdir()
    append_journal(tmp_path, event="start")
    assert "start" in (tmp_path / "journal.jsonl").read_text() and (tmp_path / "journal.jsonl.damaged").is_dir()
    assert len(capsys.readouterr().err.splitlines()) == 1
