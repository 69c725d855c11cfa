"""States saved in the background: real copies, complete or absent, one at a time, errors in the main thread.

As a program this file is a rank of the test of two ranks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from srt.common.errors import SrtError, describe_os_error
from srt.common.io import read_json, sha256_file
from srt.distributed import deepspeed_engine, saving
from srt.distributed.deepspeed_engine import DeepSpeedEngine
from srt.distributed.host_copy import host_copy
from srt.distributed.rank_agreement import find_state
from srt.distributed.saving import Saver
from srt.distributed.state import check_state, states
from srt.distributed.world import World, gather, init_world, shutdown
from srt.training.run import run_segment
from srt.training.training_set import read_training_set
from support import ROOT
from support.specs import train_spec
from support.training import segment, two_ranks

SPEC: dict[str, Any] = {"run": "toy"}
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")} | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("src", "tests")),
}
OPTIONS: dict[str, Any] = {"learning_rate": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0, "grad_clip": 1.0}


@pytest.fixture(autouse=True)
def at_once_in_the_background(monkeypatch):
    """Save small states in the background thread, too."""
    monkeypatch.setattr("srt.distributed.saving.SMALL", 0)


def make_engine(world: World, zero_stage: int = 1) -> DeepSpeedEngine:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    return DeepSpeedEngine(model, world, **OPTIONS, zero_stage=zero_stage, dtype="float32")


def update(engine: DeepSpeedEngine) -> None:
    engine.backward(engine.model(torch.ones(1, 3)).square().sum(), last=True)
    assert engine.step()[1]


def weights(engine: DeepSpeedEngine) -> list[torch.Tensor]:
    with engine.whole():
        return [w.clone() for _, w in engine.weights()]


class Held:
    """An engine's snapshot whose writes wait for `go`, and then fail with `error` if one is set."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self.engine, self.go, self.error = engine, threading.Event(), None  # type: ignore[var-annotated]

    def __call__(self, folder: Path) -> Callable[[], list[Path]]:
        write = self.engine.snapshot(folder)

        def held() -> list[Path]:
            assert self.go.wait(60)
            if self.error:
                raise self.error
            return write()

        return held


@pytest.fixture
def held() -> Held:
    return Held(make_engine(init_world()))


def make_saver(folder: Path, held: Held) -> Saver:
    return Saver(folder, SPEC, held.engine.world, None, held, held.engine.parameters)


def settled(saver: Saver, folder: Path, name: str) -> None:
    """Go through step boundaries until the state exists."""
    deadline = time.monotonic() + 400
    while not (folder / name).exists():
        assert time.monotonic() < deadline
        saver.settle()
        time.sleep(0.01)


# -- the copy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_an_update_between_copy_and_write_does_not_reach_the_file(tmp_path, zero_stage):
    engine = make_engine(init_world(), zero_stage)
    update(engine)
    before = weights(engine)
    write = engine.snapshot(tmp_path)
    update(engine)
    after = weights(engine)
    assert not torch.equal(before[0], after[0])
    write()
    other = make_engine(init_world(), zero_stage)
    other.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(other), before, strict=True))
    update(other)  # the moments also come from the copy
    assert all(torch.equal(a, b) for a, b in zip(weights(other), after, strict=True))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_copy_is_written_as_the_original_would_be(tmp_path, zero_stage, monkeypatch):
    engine = make_engine(init_world(), zero_stage)
    update(engine)
    engine.save(tmp_path / "copy")
    monkeypatch.setattr(deepspeed_engine, "host_copy", lambda state: state)
    engine.save(tmp_path / "original")
    files = [p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*.pt")]
    assert files
    for file in files:
        assert sha256_file(tmp_path / "copy" / file) == sha256_file(tmp_path / "original" / file), file


def test_a_copy_shares_storage_as_the_original_does():
    flat = torch.arange(6.0)
    state = {"flat": flat, "parts": [flat[:2], (flat[2:].view(2, 2).T,)], "grad": torch.ones(2, requires_grad=True)}
    state["plain"] = {"step": 3, "none": None}
    made = host_copy(state)
    flat.zero_()
    assert made["flat"].tolist() == [0, 1, 2, 3, 4, 5] and made["parts"][1][0].tolist() == [[2, 4], [3, 5]]
    assert made["parts"][0].data_ptr() == made["flat"].data_ptr() and made["grad"].requires_grad
    assert made["plain"] == {"step": 3, "none": None} and made["parts"][1][0].stride() == (1, 2)


# -- one rank ---------------------------------------------------------------------------------------------------------


def test_a_state_is_whole_at_the_boundary_after_its_write(tmp_path, held):
    saver = make_saver(tmp_path, held)
    metrics = [{"step": 1}]
    final = saver.start(1, metrics, {"more": [1]})
    metrics.append({"step": 2})
    update(held.engine)
    saver.settle()
    assert not final.exists() and states(tmp_path) == [], "the first state is still being written"
    held.go.set()
    settled(saver, tmp_path, "state-1")
    progress = check_state(final, SPEC, 1)
    assert (progress["step"], progress["metrics"], progress["more"]) == (1, [{"step": 1}], [1])
    on_disk = {str(p.relative_to(final)) for p in final.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(read_json(final / "manifest.json")) == on_disk and not list(tmp_path.glob(".state-*"))


def test_the_next_save_waits_for_the_one_in_flight(tmp_path, held):
    saver = make_saver(tmp_path, held)
    saver.start(1, [])
    seen = []
    timer = threading.Timer(0.3, lambda: (seen.append(states(tmp_path)), held.go.set()))
    timer.start()
    final = saver.start(2, [], wait=True)
    assert seen == [[]] and states(tmp_path) == [final], "state-1 was completed first, then replaced by state-2"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"),
    ],
)
def test_a_full_disk_in_the_thread_is_the_same_sentence_in_the_main_thread(tmp_path, held, error):
    saver = make_saver(tmp_path, held)
    held.go.set()
    saver.start(1, [], wait=True)
    held.error = error
    saver.start(2, [])
    with pytest.raises(OSError) as raised:
        saver.settle(wait=True)
    assert describe_os_error(raised.value).startswith(f"disk full while writing {tmp_path / 'state-2'}: free space")
    assert [p.name for p in tmp_path.iterdir()] == ["state-1"], "the earlier state stays, no half-written one does"
    held.error = None
    saver.start(3, [], wait=True)
    assert [p.name for p in tmp_path.iterdir()] == ["state-3"]


def test_a_bug_in_the_thread_keeps_its_type(tmp_path, held):
    saver = make_saver(tmp_path, held)
    held.go.set()
    held.error = KeyError("bug")
    with pytest.raises(KeyError, match="bug"):
        saver.start(1, [], wait=True)


# -- a run ------------------------------------------------------------------------------------------------------------


def train(folder: Path, base: Path, sums: Path, stop: int = 4) -> Path:
    spec = train_spec()
    data, truth = read_training_set(sums, spec["reward"])
    run_segment(segment(folder, base, spec, 0, stop, work=folder / "work"), data, truth)
    return folder / f"step-{stop}"


def patched(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    """Let the write of the save number `at` (from 1) begin with `act`."""
    whole, count = DeepSpeedEngine.snapshot, [0]

    def snapshot(self: DeepSpeedEngine, folder: Path) -> Callable[[], list[Path]]:
        write = whole(self, folder)
        count[0] += 1
        if count[0] != at:
            return write
        return lambda: (act(), write())[1]

    monkeypatch.setattr(DeepSpeedEngine, "snapshot", snapshot)


def test_a_run_with_a_slow_disk_has_the_bytes_of_one_with_a_fast_disk(tmp_path, tiny_base, sums, monkeypatch):
    fast = train(tmp_path / "fast", tiny_base, sums)
    patched(monkeypatch, 2, lambda: time.sleep(1.0))
    slow = train(tmp_path / "slow", tiny_base, sums)
    for name in ("model/model.safetensors", "state/manifest.json", "metrics.parquet"):
        assert (slow / name).read_bytes() == (fast / name).read_bytes(), name


def test_a_disk_that_fills_up_stops_the_run_with_the_state_before(tmp_path, tiny_base, sums, monkeypatch):
    def full() -> None:
        raise OSError(28, "No space left on device")

    patched(monkeypatch, 2, full)
    with pytest.raises(OSError) as raised:
        train(tmp_path, tiny_base, sums)
    assert "disk full while writing" in describe_os_error(raised.value) and "state-2" in str(raised.value)
    assert [p.name for p in states(tmp_path / "work")] == ["state-1"]
    monkeypatch.undo()
    place = train(tmp_path, tiny_base, sums)
    assert check_state(place / "state", train_spec(), 1)["step"] == 4


@pytest.mark.slow
def test_a_kill_while_the_thread_writes_loses_that_save_only(tmp_path, tiny_base, sums):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, __file__, "hang", str(folder), str(tiny_base), str(sums)],
        env=ENVIRONMENT,
    )  # fmt: skip
    torn, deadline = folder / "work" / ".state-3.tmp", time.monotonic() + 400
    while not list(torn.rglob("*optim_states.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert torn.exists() and [p.name for p in states(folder / "work")] == ["state-2"]
    again, whole = train(folder, tiny_base, sums), train(tmp_path / "whole", tiny_base, sums)
    assert not torn.exists()
    lines = [json.loads(x) for x in (folder / "work" / "journal.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["event"] == "start"] == [0, 2]
    for name in ("model/model.safetensors", "state/manifest.json", "metrics.parquet"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


# -- two ranks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_write_one_state_and_fail_together(tmp_path):
    done = two_ranks(__file__, "ranks", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "found.json")
    state = tmp_path / "work" / "state-1"
    assert [p.name for p in states(tmp_path / "work")] == ["state-1"]
    assert sum(name.endswith("optim_states.pt") for name in read_json(state / "manifest.json")) == 2
    assert check_state(state, SPEC, 2)["step"] == 1
    assert found["early"] == [False, False], "rank 1 was still writing"
    assert found["sentences"][0] == found["sentences"][1] and "state-2" in found["sentences"][0]
    assert not list((tmp_path / "work").glob(".state-*"))
    # each rank of the next segment hashes its share of the files, so together they find any damaged one
    for file in [p for p in state.rglob("*") if p.name not in ("manifest.json", "progress.json") and p.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        assert sum(damaged(state, rank) for rank in (0, 1)) == 1, file
        file.write_bytes(content)
    assert not damaged(state, 0) and not damaged(state, 1)
    # both ranks skip the state, whichever of them found the damage
    assert found["taken"].pop("whole") == ["state-1", "state-1"]
    assert len(found["taken"]) == 3 and set(map(tuple, found["taken"].values())) == {(None, None)}


def damaged(state: Path, rank: int) -> bool:
    try:
        check_state(state, SPEC, 2, rank)
    except SrtError as error:
        assert "damaged or missing" in str(error)
        return True
    return False


def ranks(folder: Path) -> None:
    """On both ranks: rank 1 writes late; later it cannot write."""
    world = init_world()
    held = Held(make_engine(world))
    saver = make_saver(folder / "work", held)
    final = saver.start(1, [])
    if world.main:
        held.go.set()
    time.sleep(0.3)
    saver.settle()
    early = gather([final.exists()], world)
    held.go.set()
    saver.settle(wait=True)
    if not world.main:
        held.error = OSError(28, "No space left on device")
    try:
        saver.start(2, [], wait=True)
        sentence = "no error"
    except OSError as error:
        sentence = describe_os_error(error)
    sentences = gather([sentence], world)
    taken = {"whole": found_by(world, folder / "work")}
    for file in sorted((folder / "work" / "state-1").rglob("*.pt")):
        content = file.read_bytes()
        gather([], world)  # both ranks have read it
        if world.main:
            file.write_bytes(content[:-1])
        taken[file.name] = found_by(world, folder / "work")
        if world.main:
            file.write_bytes(content)
    if world.main:
        (folder / "found.json").write_text(json.dumps({"early": early, "sentences": sentences, "taken": taken}))


def found_by(world: World, work: Path) -> list[str | None]:
    """The state that each rank would resume from."""
    found = find_state(work, SPEC, world)
    return gather([found and found[0].name], world)


def hang(folder: Path, base: Path, sums: Path) -> None:
    """Train; the thread of the third save writes its files and then waits for the kill while training continues."""
    whole, count = DeepSpeedEngine.snapshot, [0]

    def snapshot(self: DeepSpeedEngine, place: Path) -> Callable[[], list[Path]]:
        write = whole(self, place)
        count[0] += 1
        return write if count[0] < 3 else lambda: (write(), time.sleep(600))[0]

    DeepSpeedEngine.snapshot = snapshot  # type: ignore[method-assign]
    train(folder, base, sums)


if __name__ == "__main__":
    saving.SMALL = 0
    try:
        {"ranks": ranks, "hang": hang}[sys.argv[1]](*map(Path, sys.argv[2:]))
    finally:
        shutdown()
