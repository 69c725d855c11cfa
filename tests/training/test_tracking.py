"""JSONL that is the same after a resume, TensorBoard without repeated steps, timers, progress lines."""

from __future__ import annotations

import builtins
import json
import math

import pytest
import torch

from srt.training import tracking
from srt.training.tracking import (
    Eta,
    PhaseTimer,
    Tracker,
    duration,
    logged_rows,
    peak_memory,
    postfix,
    summary,
    timing_row,
)
from support.work import Clock, calls_of


def row(step: int) -> dict:
    return {"step": step, "reward": 0.1 * step, "kl": step / 3, "true_accuracy": math.nan, "response_length": 23.0}


def timing(step: int, seconds: float = 2.0) -> dict:
    return timing_row(
        step, seconds, {"rollout": 1.0, "update": 0.5}, tokens=1000, response_tokens=600, processed_tokens=1250,
        flops=1e9, peak=4e9, memory=1 << 30, update=("update",),
    )  # fmt: skip


def take(folder, history, step, last, seconds=2.0) -> None:
    """One attempt: resume after `step` and take all steps up to `last`."""
    tracker = Tracker(folder, history, step, main=True)
    for n in range(step + 1, last + 1):
        tracker.write(row(n), timing(n, seconds))
    tracker.close()


def steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, round(e.value, 6)) for e in events.Scalars(tag)]


def test_a_resumed_run_s_metrics_are_the_undisturbed_one_s(tmp_path):
    take(tmp_path / "whole", [], 0, 6)
    broken = tmp_path / "broken"
    take(broken, [], 0, 5, seconds=9.0)  # killed after step 5, saved at 3
    with open(broken / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 6, "rew')  # in the middle of a line
    history = json.loads(json.dumps([row(n) for n in (1, 2, 3)], sort_keys=True))  # as progress.json keeps it
    take(broken, history, 3, 6)
    assert (broken / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert steps(broken / "timing.jsonl") == [1, 2, 3, 4, 5, 6]
    seconds = [json.loads(x)["seconds"] for x in (broken / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    assert seconds == [9.0] * 3 + [2.0] * 3


def test_what_the_state_holds_wins_over_what_the_file_holds(tmp_path):
    take(tmp_path, [], 0, 1)  # the lines of steps 2 and 3 never reached the disk
    take(tmp_path, [row(n) for n in (1, 2, 3)], 3, 4)
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4] and steps(tmp_path / "timing.jsonl") == [1, 4]


def test_a_run_in_segments_appends_to_one_file(tmp_path):
    take(tmp_path, [], 0, 2)
    take(tmp_path, [], 2, 4)
    take(tmp_path, [row(3)], 3, 4)  # the second segment again, from its state of step 3
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]


def test_a_start_from_nothing_forgets_an_attempt_that_saved_nothing(tmp_path):
    take(tmp_path, [], 0, 2)
    take(tmp_path, [], 0, 1)
    assert steps(tmp_path / "metrics.jsonl") == steps(tmp_path / "timing.jsonl") == [1]


def test_lines_are_strict_json_and_not_finite_is_null(tmp_path):
    take(tmp_path, [], 0, 1)
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["true_accuracy"] is None
    assert json.loads(text)["kl"] == 1 / 3, "every digit is kept"


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 1}\nnonsense\n{"step": 3}\n', b"[1]\n", b'{"a":1}\n', b'{"step": "x"}\n', b'{"step": NaN}\n', b"7\n",
        b'{"step": 1, "kl": [2]}\n', '{"step": 1}\n'.encode("utf-16"), b"\xff\xfe\x00", b"[" * 100_000 + b"\n1\n",
    ],
)  # fmt: skip
def test_a_damaged_log_is_set_aside(tmp_path, capsys, name, damage):
    (tmp_path / name).write_bytes(damage)
    take(tmp_path, [row(1), row(2)], 2, 3)
    assert (tmp_path / f"{name}.damaged").read_bytes() == damage
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3] and steps(tmp_path / "timing.jsonl") == [3]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is damaged" in line and f"renamed to {name}.damaged" in line
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()  # the second one is kept beside the first
    take(tmp_path, [row(1)], 1, 2)
    assert (tmp_path / f"{name}.damaged-2").is_dir() and steps(tmp_path / "metrics.jsonl") == [1, 2]


def test_a_file_in_place_of_the_events_folder_is_set_aside(tmp_path):
    (tmp_path / "tensorboard").write_text("x")
    take(tmp_path, [], 0, 1)
    assert (tmp_path / "tensorboard.damaged").read_text() == "x" and len(scalars(tmp_path, "metrics/reward")) == 1


def test_rows_without_the_metrics_of_the_alarm_are_set_aside(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert logged_rows(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert logged_rows(tmp_path / "metrics.jsonl", needs=["kl"]) == [] and not (tmp_path / "metrics.jsonl").exists()


def test_history_must_end_at_the_resumed_step(tmp_path):
    with pytest.raises(ValueError, match="history ends at step 2, the state is of step 3"):
        Tracker(tmp_path, [row(2)], 3, main=True)


def test_other_ranks_write_nothing(tmp_path):
    tracker = Tracker(tmp_path / "rank1", [row(1)], 1, main=False)
    tracker.write(row(2), timing(2))
    tracker.close()
    assert not (tmp_path / "rank1").exists()


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    take(tmp_path, [], 0, 4, seconds=9.0)
    take(tmp_path, [row(1), row(2)], 2, 5)
    assert scalars(tmp_path, "metrics/reward") == [(n, round(0.1 * n, 6)) for n in (1, 2, 3, 4, 5)]
    assert scalars(tmp_path, "timing/seconds") == [(1, 9.0), (2, 9.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    take(tmp_path, [], 0, 1)
    assert scalars(tmp_path, "metrics/reward") == [(1, 0.1)]


def test_without_tensorboard_one_sentence_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def no_tensorboard(name, *args, **kwargs):
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorboard)
    take(tmp_path, [], 0, 2)
    assert capsys.readouterr().err.count("'tensorboard' is not installed") == 1
    assert steps(tmp_path / "metrics.jsonl") == [1, 2] and not (tmp_path / "tensorboard").exists()


# -- timers, rates, lines -----------------------------------------------------------------------------------------


def test_phases_are_exclusive_and_their_sum_is_the_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tracking.time, "perf_counter", clock)
    timer = PhaseTimer()
    for _ in range(2):
        with timer("update"):
            clock.now += 1
            with timer("reference"):
                clock.now += 4
            clock.now += 2
        clock.now += 50  # outside any phase
    assert timer.lap() == {"update": 6.0, "reference": 8.0}
    assert timer.lap() == {}


def test_a_phase_that_fails_is_counted_and_closed(monkeypatch):
    timer = PhaseTimer()
    with pytest.raises(KeyError), timer("rollout"):
        raise KeyError
    assert list(timer.lap()) == ["rollout"]
    with timer("update"), pytest.raises(RuntimeError, match="phase 'update' is still open"):
        timer.lap()


def test_the_timer_does_little():
    """At most 30 calls of functions per phase: microseconds."""
    timer = PhaseTimer()

    def phases() -> None:
        for _ in range(100):
            with timer("x"):
                pass

    assert calls_of(phases) < 30 * 100


@pytest.mark.gpu
def test_a_gpu_phase_waits_for_its_kernels():
    timer, x = PhaseTimer("cuda"), torch.randn(8192, 8192, device="cuda")
    with timer("product"):
        for _ in range(20):
            y = x @ x
        pending = not torch.cuda.current_stream().query()
    assert pending and torch.cuda.current_stream().query() and timer.lap()["product"] > 0 and y.shape == x.shape


def test_timing_row():
    values = timing(7)
    assert values == {
        "step": 7, "seconds": 2.0, "seconds_rollout": 1.0, "seconds_update": 0.5, "tokens_per_second": 500.0,
        "rollout_tokens_per_second": 600.0, "update_tokens_per_second": 2000.0, "padding_efficiency": 0.8, "mfu": 0.5,
        "peak_memory": 1 << 30,
    }  # fmt: skip
    split = timing_row(
        1, 2.0, {"gradient": 0.5, "reference": 0.3}, tokens=80, response_tokens=0, processed_tokens=0, flops=1e9,
        peak=math.nan, memory=0, update=("gradient", "reference"),
    )  # fmt: skip
    assert split["update_tokens_per_second"] == 100.0
    assert all(math.isnan(split[x]) for x in ("mfu", "padding_efficiency", "rollout_tokens_per_second"))


def test_eta_forgets_slow_first_steps():
    eta = Eta(stop=100, window=3)
    assert eta.update(1, 60.0) == 99 * 60.0
    for step in (2, 3, 4):
        left = eta.update(step, 2.0)
    assert left == 96 * 2.0 and eta.update(100, 2.0) == 0


def test_lines_for_people():
    assert [duration(x) for x in (0.4, 61, 3600 * 30 + 5)] == ["0:00:00", "0:01:01", "30:00:05"]
    shown = {**row(3), "reward": 0.25}
    assert postfix(shown, timing(3), 75) == {"reward": "0.250", "kl": "1.0000", "eta": "0:01:15", "tok/s": "500"}
    assert summary("srt-s1", 12, shown, timing(3), 75) == (
        "srt-s1 step 3/12 reward 0.250 kl 1.0000 length 23 2.0 s/step 500 tok/s mfu 0.50 eta 0:01:15"
    )
    assert " mfu" not in summary("srt-s1", 12, shown, {**timing(3), "mfu": math.nan}, 75)


def test_peak_memory_of_this_process_is_plausible():
    assert 50 << 20 < peak_memory("cpu") < 1 << 40


def test_every_column_is_in_the_document(root):
    from srt.training.training_set import CONFIDENCE, DYNAMIC, METRICS, OVERLONG, PAIRED, REFILL, SCHEDULED

    text = (root / "docs" / "monitors.md").read_text(encoding="utf-8")
    first = {name for line in text.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")}
    assert {*METRICS, *REFILL, *DYNAMIC, *PAIRED, *CONFIDENCE, *OVERLONG, *SCHEDULED} <= first
    assert {name for name in timing(1) if not name.startswith("seconds_")} - {"step"} <= first
