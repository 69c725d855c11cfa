"""Interrupted training: chains of segments, kills, signals and time budgets end with the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srt.common.errors import Interrupted, SrtError
from srt.common.io import read_json, read_parquet, sha256_file
from srt.common.lock import folder_lock
from srt.distributed.state import check_state
from srt.rollout import TOLERANCE
from srt.training.run import run_segment
from srt.training.training_set import TrainingSet, join_metrics, read_training_set
from support.specs import train_spec
from support.training import command, killed_then_finished, script, segment, start, train, wait_for_state, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base, sums) -> Path:
    """An undisturbed run of 8 steps with 4 of 24 prompts per step, so that it enters a second epoch."""
    return train(tmp_path_factory.mktemp("whole"), tiny_base, sums, train_spec(), 8)


def test_training_changes_the_weights_and_logs_every_step(whole, tiny_base):
    frame = read_parquet(whole / "metrics.parquet").to_pandas()
    assert frame["step"].tolist() == list(range(1, 9))
    assert frame["kl"].iloc[0] == 0 and frame["kl"].iloc[-1] > 0
    assert frame["reward"].between(0, 1).all() and frame["grad_norm"].gt(0).all()
    assert weights(whole) != sha256_file(tiny_base / "model.safetensors")


def test_a_chain_of_segments_is_one_long_run_bit_for_bit(whole, tmp_path, tiny_base, sums):
    chain = train(tmp_path, tiny_base, sums, train_spec(), 3, 6, 8)
    assert weights(chain) == weights(whole)
    frame, _ = join_metrics([tmp_path / f"step-{n}" / "metrics.parquet" for n in (3, 6, 8)])
    assert frame.equals(read_parquet(whole / "metrics.parquet").to_pandas())
    ours, theirs = (read_json(x / "state" / "manifest.json") for x in (chain, whole))
    assert {k: v for k, v in ours.items() if k.startswith("engine/")} == {
        k: v for k, v in theirs.items() if k.startswith("engine/")
    }


@pytest.mark.slow
def test_the_same_in_bfloat16_the_default_precision(tmp_path, tiny_base, sums):
    """Float32 master weights and moments go through the state; activations are recomputed, as by default."""
    spec = train_spec(dtype="bfloat16", gradient_checkpointing="full")
    assert spec["train"]["zero_stage"] == 1
    whole = train(tmp_path / "whole", tiny_base, sums, spec, 3)
    chain = train(tmp_path / "chain", tiny_base, sums, spec, 1, 3)
    assert (chain / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    frame, _ = join_metrics([tmp_path / "chain" / f"step-{n}" / "metrics.parquet" for n in (1, 3)])
    assert frame.equals(read_parquet(whole / "metrics.parquet").to_pandas())
    ours, theirs = (read_json(x / "state" / "manifest.json") for x in (chain, whole))
    assert {k: v for k, v in ours.items() if k.startswith("engine/")} == {
        k: v for k, v in theirs.items() if k.startswith("engine/")
    }
    assert {w.dtype for w in load_file(whole / "model/model.safetensors").values()} == {torch.bfloat16}
    assert frame["grad_norm"].gt(0).all() and frame["skipped"].eq(0).all() and frame["kl"].iloc[-1] > 0
    assert frame["mismatch_mean"].between(1e-6, TOLERANCE["bfloat16"]).all()


def test_another_seed_gives_another_run(whole, tmp_path, tiny_base, sums):
    other = train(tmp_path, tiny_base, sums, train_spec(seed=2), 1)
    first = read_parquet(whole / "metrics.parquet").to_pandas().iloc[:1]
    assert not read_parquet(other / "metrics.parquet").to_pandas().equals(first)


@pytest.mark.slow
def test_sigkill_at_any_moment_then_the_same_command_gives_the_same_bytes(whole, tmp_path, tiny_base, sums):
    work = tmp_path / "work" / "step-8"
    killed_then_finished(command(tmp_path, tiny_base, sums, train_spec(), 8), work, ((1, 0.0), (3, 0.05), (5, 0.11)))
    assert weights(tmp_path / "step-8") == weights(whole)
    assert (tmp_path / "step-8" / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()
    assert [p.name for p in work.iterdir() if p.name.startswith("state")] == ["state-8"]


def journal(work: Path, event: str) -> list[int]:
    """The steps of one kind of line in a work folder's journal."""
    lines = [json.loads(line) for line in (work / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(x["process"] == os.getpid() and x["time"] > 1.7e9 for x in lines)
    return [x["step"] for x in lines if x["event"] == event]


def test_a_finished_segment_that_lost_its_outputs_is_not_trained_again(tmp_path, tiny_base, sums):
    """Snakemake deletes the outputs when a job is cancelled or loses its node after its last step."""
    place, work = train(tmp_path, tiny_base, sums, train_spec(), 2), tmp_path / "work" / "step-2"
    before = {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    shutil.rmtree(place)
    train(tmp_path, tiny_base, sums, train_spec(), 2)
    after = {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert after == before and journal(work, "step") == [1, 2] and journal(work, "start") == [0, 2]
    state = next((work / "state-2").rglob("*optim*"))
    assert state.samefile(place / "state" / state.relative_to(work / "state-2")), "the file is on the disk once"
    train(tmp_path, tiny_base, sums, train_spec(), 2, 3)
    assert not list(work.glob("state-*")) and [p.name for p in work.with_name("step-3").glob("state-*")] == ["state-3"]


@pytest.mark.slow
def test_a_second_slurm_job_waits_for_the_first_and_takes_its_state(tmp_path, tiny_base, sums, capsys, monkeypatch):
    """SLURM restarts a job elsewhere while the lost node still trains: no step is trained twice."""
    spec, work = train_spec(), tmp_path / "work" / "step-2"
    data, truth = read_training_set(sums, spec["reward"])
    first = start(command(tmp_path, tiny_base, sums, spec, 2))
    wait_for_state(work, 1, first)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run_segment(segment(tmp_path, tiny_base, spec, 0, 2, minutes=2.0), data, truth)
    assert first.wait() == 0
    lines = [json.loads(line) for line in (work / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(x["event"], x["step"]) for x in lines] == [("start", 0), ("step", 1), ("step", 2), ("start", 2)]
    assert lines[3]["job"] == 7 and f"waiting for process {first.pid} on" in capsys.readouterr().err


def test_sigterm_ends_the_wait_for_the_first_job(tmp_path, tiny_base, sums):
    spec, work = train_spec(), tmp_path / "work" / "step-2"
    data, truth = read_training_set(sums, spec["reward"])

    def terminate() -> None:
        while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    with folder_lock(work), pytest.raises(Interrupted, match=f"SIGTERM while waiting for process {os.getpid()} on"):
        threading.Thread(target=terminate, daemon=True).start()
        run_segment(segment(tmp_path, tiny_base, spec, 0, 2, minutes=2.0), data, truth)
    assert sorted(p.name for p in work.iterdir()) == ["lock"] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_state_of_other_data_is_not_gone_on_from(tmp_path, tiny_base, sums, capsys):
    """A file of the same name holds other problems: the spec is the same, the run is not."""
    spec = train_spec()
    data, truth = read_training_set(sums, spec["reward"])
    run_segment(segment(tmp_path, tiny_base, spec, 0, 2), data, truth)
    fewer = TrainingSet(data.ids[1:], data.problems[1:], data.tasks[1:], data.labels)
    run_segment(segment(tmp_path, tiny_base, spec, 0, 2), fewer, truth)
    assert "was made from another base model, data set or earlier state" in capsys.readouterr().err
    assert journal(tmp_path / "work" / "step-2", "start") == [0, 0]


@pytest.mark.slow
def test_sigterm_saves_and_asks_to_be_resumed(tmp_path, tiny_base, sums, whole):
    args = command(tmp_path, tiny_base, sums, train_spec(), 8)
    process = start(args)
    wait_for_state(tmp_path / "work" / "step-8", 2, process)
    process.terminate()
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 75, stderr
    assert "SIGTERM: state saved at step" in stderr and "Traceback" not in stderr
    at_once = re.search(
        r"^SIGTERM: training stops after step (\d+) of 8 \(.* s\), when its state", stderr, re.MULTILINE
    )
    assert at_once and f"state saved at step {at_once[1]}," in stderr[at_once.end() :], stderr
    assert not (tmp_path / "step-8").exists()
    process = start(args)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert weights(tmp_path / "step-8") == weights(whole)


def test_time_budget_saves_and_stops(tmp_path, tiny_base, sums, whole):
    with pytest.raises(Interrupted, match="time budget"):
        train(tmp_path, tiny_base, sums, train_spec(), 8, minutes=1e-4)
    train(tmp_path, tiny_base, sums, train_spec(), 8)
    assert weights(tmp_path / "step-8") == weights(whole)


def test_a_second_process_on_one_segment_is_refused(tmp_path):
    sentence = f"in use by process {os.getpid()} on"
    with folder_lock(tmp_path), pytest.raises(SrtError, match=sentence), folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path):  # the lock is free again
        pass


def test_states_of_another_spec_torn_or_of_other_ranks_are_refused(whole, tmp_path):
    state = whole / "state"
    assert check_state(state, train_spec(), 1)["step"] == 8
    with pytest.raises(SrtError, match="state of another spec"):
        check_state(state, train_spec(learning_rate=2e-3), 1)
    with pytest.raises(SrtError, match="written by 1 processes, this job has 2"):
        check_state(state, train_spec(), 2)
    torn = tmp_path / "state"
    shutil.copytree(state, torn)
    file = next((torn / "engine").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SrtError, match="damaged or missing"):
        check_state(torn, train_spec(), 1)


def test_foreign_progress_is_left_out_of_account(tmp_path, tiny_base, sums, whole, capsys):
    """Progress of the same segment under other hyperparameters does not enter the run."""
    work = tmp_path / "work" / "step-8"
    with pytest.raises(Interrupted):
        train(tmp_path, tiny_base, sums, train_spec(learning_rate=5e-3), 8, minutes=1e-4)
    assert list(work.glob("state-*"))
    train(tmp_path, tiny_base, sums, train_spec(), 8)
    assert "not resuming" in capsys.readouterr().err
    assert weights(tmp_path / "step-8") == weights(whole)


@pytest.mark.slow
def test_the_script_names_a_wrong_resume_state(tmp_path, tiny_base, sums, whole):
    for resume, text in ((whole / "state", "is the state of step 8, not of start 4"), (tmp_path, "does not exist")):
        given = segment(tmp_path, tiny_base, train_spec(), 4, 12, resume=resume)
        process = start([sys.executable, *script(given, sums)])
        _, stderr = process.communicate(timeout=400)
        assert process.returncode == 2 and text in stderr and "Traceback" not in stderr


def test_states_are_read_without_unpickling_foreign_objects(whole, tmp_path):
    """A file that pickles more than tensors and DeepSpeed's three own types is not loaded."""
    from srt.distributed.deepspeed_engine import DeepSpeedEngine
    from srt.distributed.world import init_world

    torn = tmp_path / "state"
    shutil.copytree(whole / "state", torn)
    file = next((torn / "engine").glob("*model_states.pt"))
    torch.save({"module": os.system}, file)
    world = init_world()
    options = {"learning_rate": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.0, "grad_clip": 1.0}
    wrapped = DeepSpeedEngine(torch.nn.Linear(2, 2), world, **options, zero_stage=1, dtype="float32")
    with pytest.raises(SrtError, match="is damaged or holds more than tensors, and is not loaded"):
        wrapped.load(torn)


def test_signal_handler_is_restored_for_the_caller(whole):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
