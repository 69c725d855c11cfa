"""`stop_at`: a run on true answers ends where its accuracy reaches a goal; over segments and interruptions, too."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common.io import read_json, write_json
from srt.training.alarm_action import AccuracyGoal, ActingAlarm, watch_of
from srt.training.training_set import join_metrics
from support.specs import train_spec
from support.training import train_on, weights


def spec_of(accuracy: float, window: int) -> dict[str, Any]:
    return {**train_spec(reward="ground_truth"), "stop_at": {"accuracy": accuracy, "window": window}}


def first_step(accuracies: list[float], accuracy: float, window: int) -> int | None:
    """By hand: the first step with as many known accuracies before it, whose mean reaches the goal."""
    known = pd.Series(accuracies, index=range(1, len(accuracies) + 1), dtype=float).dropna()
    means = known.rolling(window).apply(lambda part: sum(part) / window, raw=True)
    reached = means[means >= accuracy]
    return int(reached.index[0]) if len(reached) else None


shares = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.just(float("nan")))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    values=st.lists(shares, min_size=1, max_size=12), window=st.integers(1, 4),
    goal=st.sampled_from([0.25, 0.5, 1.0]), cut=st.integers(0, 12),
)  # fmt: skip
def test_it_ends_at_the_first_window_that_reaches_the_goal(values, window, goal, cut, tmp_path_factory) -> None:
    rows = [{"step": step, "true_accuracy": value} for step, value in enumerate(values, start=1)]
    expected = first_step(values, goal, window)
    watch = AccuracyGoal(spec_of(goal, window))
    assert watch.restore(None, []) is None
    said = [watch.update(row) for row in rows]
    assert [step for step, action in enumerate(said, start=1) if action] == ([expected] if expected else [])
    # saved in a segment and continued, with some of the rows since then, is the same
    folder = tmp_path_factory.mktemp("state")
    first = AccuracyGoal(spec_of(goal, window))
    for row in rows[: cut // 2]:
        first.update(row)
    write_json(folder / "progress.json", json.loads(json.dumps(first.progress())))
    again = AccuracyGoal(spec_of(goal, window))
    action = again.restore(folder, rows[cut // 2 : cut])
    assert action == ("stop" if expected is not None and expected <= cut else None)
    for row in rows[cut:]:
        again.update(row)
    assert again.progress() == watch.progress()


def test_a_run_watches_its_goal_or_its_alarm() -> None:
    assert isinstance(watch_of(spec_of(0.5, 1)), AccuracyGoal) and isinstance(watch_of(train_spec()), ActingAlarm)


def test_later_checkpoints_have_the_weights_of_that_step(tmp_path, tiny_base, sums, capsys) -> None:
    """The goal is reached at step 3; the checkpoints are at steps 2, 4 (in whose segment that is) and 6."""
    plain = train_on(tmp_path / "plain", tiny_base, sums, train_spec(reward="ground_truth"), 3)
    frame = join_metrics([plain / "metrics.parquet"])[0]
    goal = sum(frame["true_accuracy"]) / 3
    assert goal > 0
    capsys.readouterr()
    ended = train_on(tmp_path / "ended", tiny_base, sums, spec_of(goal, 3), 2, 4, 6)
    said = capsys.readouterr().err
    assert said.count("at step 3 (stop_at): training ended there, and later checkpoints keep these weights") == 2
    torn = train_on(tmp_path / "torn", tiny_base, sums, spec_of(goal, 3), 4, 6, minutes=1e-5)
    assert weights(ended) == weights(ended.with_name("step-4")) == weights(torn) == weights(plain)
    rows = join_metrics([ended.with_name(f"step-{n}") / "metrics.parquet" for n in (2, 4, 6)])[0]
    assert rows.equals(frame) and read_json(ended / "state/progress.json")["step"] == 6
