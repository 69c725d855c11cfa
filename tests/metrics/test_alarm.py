"""The collapse alarm: its signs, online equal to offline, and what it did on recorded runs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common.errors import SrtError
from srt.metrics.alarm import COLUMNS, Alarm, AlarmRule, accuracy_fall, collapse_alarm, evaluate_alarm

RECORDED = pd.read_csv(Path(__file__).with_name("alarm_runs.csv"))
QUIET = {"majority_ratio": 0.4, "top_majority_share": 0.15, "kl": 0.1, "response_length": 100.0}
DRIFT = {"majority_ratio": 0.7, "kl": 1.2}
ONE_ANSWER = {"majority_ratio": 0.7, "top_majority_share": 0.6}
SHORTCUT = {"majority_ratio": 0.7, "response_length": 45.0}


def frame(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame([{"step": step, **QUIET, **row} for step, row in enumerate(rows, start=1)])


@pytest.mark.parametrize(
    ("sign", "rows"), [("drift", DRIFT), ("one answer", ONE_ANSWER), ("shortcut", SHORTCUT)], ids=lambda x: str(x)[:8]
)
def test_each_sign_rings_when_it_has_held_for_the_patience(sign, rows):
    table = frame({}, {}, {}, {}, rows, {}, rows, rows, rows)
    alarm = Alarm()
    assert [alarm.update(row) for row in table.to_dict("records")] == [False] * 7 + [True, False]  # and only once
    assert (alarm.rang, alarm.sign) == (8, sign)
    assert collapse_alarm(table, AlarmRule(patience=1)) == 5 and collapse_alarm(table, AlarmRule(patience=4)) is None


@pytest.mark.parametrize("rows", [DRIFT, ONE_ANSWER, SHORTCUT])
def test_no_sign_counts_without_more_agreement(rows):
    assert collapse_alarm(frame({}, {}, {}, *[{**rows, "majority_ratio": 0.59}] * 5)) is None
    agreeing = {"majority_ratio": 0.9}  # agreement above 0.8 cannot rise by 0.2, so 0.95 is enough
    assert collapse_alarm(frame(*[agreeing] * 3, *[{**rows, "majority_ratio": 0.96}] * 2)) == 5


def test_signs_alternating_do_not_add_up():
    assert collapse_alarm(frame({}, {}, {}, *[DRIFT, SHORTCUT] * 4)) is None


def test_multiple_choice_is_not_one_answer():
    """With four possible answers, half of the prompts may share an answer from the start."""
    start = {"top_majority_share": 0.4}
    assert collapse_alarm(frame(*[start] * 3, *[{"majority_ratio": 0.9, "top_majority_share": 0.6}] * 5)) is None
    assert collapse_alarm(frame(*[start] * 3, *[{"majority_ratio": 0.9, "top_majority_share": 0.85}] * 2)) == 5


def test_nan_is_no_evidence():
    nan = float("nan")
    unknown = dict.fromkeys(QUIET, nan)
    assert collapse_alarm(frame(*[unknown] * 8)) is None
    assert collapse_alarm(frame(unknown, {}, {}, DRIFT, {**DRIFT, "kl": nan}, DRIFT)) is None
    assert collapse_alarm(frame(unknown, {}, {}, DRIFT, DRIFT)) == 5
    assert not Alarm(AlarmRule(baseline=1)).update({"step": 1, **dict.fromkeys(QUIET)}), "null of metrics.jsonl"


def test_metrics_without_a_column_and_rules_without_steps_are_named():
    with pytest.raises(SrtError, match="needs the metric 'top_majority_share'"):
        collapse_alarm(frame({}).drop(columns="top_majority_share"))
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        AlarmRule(patience=0)


numbers = st.one_of(st.floats(0, 3), st.just(float("nan")))
tables = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), numbers, numbers), min_size=1, max_size=30).map(
    lambda rows: pd.DataFrame([(i + 1, *row) for i, row in enumerate(rows)], columns=list(COLUMNS))
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(table=tables, patience=st.integers(1, 3), baseline=st.integers(1, 4))
def test_what_it_says_at_a_step_depends_on_rows_up_to_it_only(table, patience, baseline):
    rule = AlarmRule(patience=patience, baseline=baseline)
    offline = collapse_alarm(table, rule)
    alarm = Alarm(rule)
    for length, row in enumerate(table.to_dict("records"), start=1):
        alarm.update(row)
        prefix = collapse_alarm(table.iloc[:length], rule)
        assert prefix == alarm.rang == (offline if offline is not None and offline <= length else None)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(table=tables, cut=st.integers(0, 30), patience=st.integers(1, 3), baseline=st.integers(1, 4))
def test_a_state_is_all_that_it_remembers(table, cut, patience, baseline):
    """Saved as JSON after any row, with keys in another order, it rings at the same step by the same sign."""
    rule = AlarmRule(patience=patience, baseline=baseline)
    whole, halves = Alarm(rule), Alarm(rule)
    for number, row in enumerate(table.to_dict("records")):
        whole.update(row)
        if number == cut:
            halves = Alarm.restored(rule, json.loads(json.dumps(halves.state(), sort_keys=True)))
        halves.update(row)
    assert (halves.rang, halves.sign) == (whole.rang, whole.sign)
    assert json.dumps(halves.state(), sort_keys=True) == json.dumps(whole.state(), sort_keys=True)  # nan is not nan


def test_signs_that_ring_together_have_one_order():
    both = {**DRIFT, **ONE_ANSWER}
    for rows in ([both, both], [DRIFT, both, both]):
        alarm = Alarm()
        for row in frame({}, {}, {}, *rows[:1]).to_dict("records"):
            alarm.update(row)
        alarm = Alarm.restored(alarm.rule, json.loads(json.dumps(alarm.state(), sort_keys=True)))
        rang = [alarm.update({"step": 5 + i, **QUIET, **row}) for i, row in enumerate(rows[1:])]
        assert rang[0] and alarm.sign == ("one answer" if rows[0] is both else "drift")


@settings(deadline=None, derandomize=True, max_examples=30)
@given(table=tables, truth=st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_true_answers_change_nothing(table, truth):
    seen = table.assign(true_accuracy=truth[: len(table)], reward=0.5, label_accuracy=truth[: len(table)])
    assert collapse_alarm(seen) == collapse_alarm(table)


# -- the fall of the accuracy, and lead times ---------------------------------------------------------------------


def accuracies(*values: float, window: int = 1) -> int | None:
    return accuracy_fall(pd.DataFrame({"step": [10 * (i + 1) for i in range(len(values))], "true_accuracy": values}),
                         window=window)  # fmt: skip


def test_the_fall_is_the_step_from_which_half_of_the_best_is_never_reached_again():
    assert accuracies(0.3, 0.5, 0.6, 0.2, 0.1, 0.1) == 40
    assert accuracies(0.3, 0.5, 0.6, 0.2, 0.4, 0.3) == 60  # 0.4 is a recovery, 0.3 is half
    assert accuracies(0.3, 0.5, 0.6, 0.2, 0.4) is None
    assert accuracies(0.04, 0.0, 0.0) is None, "there is no accuracy to lose"
    assert accuracies(0.3) is None and accuracies() is None and accuracies(float("nan"), float("nan")) is None
    assert accuracies(0.5, 0.5, 0.0, 0.5, 0.5, window=3) is None, "one bad step is noise"
    assert accuracies(*[0.5] * 5, *[0.0] * 5, window=5) == 60


def test_lead_false_alarms_and_misses():
    ringing, silent = frame({}, {}, {}, DRIFT, DRIFT), frame({}, {}, {})
    early = evaluate_alarm(ringing, 9)
    assert (early.alarm, early.lead, early.false_alarm, early.missed) == (5, 4, False, False)
    assert evaluate_alarm(ringing, 3).lead == -2 and not evaluate_alarm(ringing, 3).false_alarm
    assert evaluate_alarm(ringing, None).false_alarm and evaluate_alarm(ringing, 100).false_alarm
    assert not evaluate_alarm(ringing, 100, horizon=95).false_alarm
    assert evaluate_alarm(silent, 9).missed and not evaluate_alarm(silent, None).missed


# Recorded: 16 prompts x 16 rollouts per step, the smoke configuration's base model (docs/monitors.md has the set-ups).
JUDGED = {
    "mix": (13, "drift", 12),
    "third-fast": (13, "drift", 9),
    "third-fastest": (7, "drift", 6),
    "hard-fast": (7, "one answer", None),  # it had no accuracy to lose
    "third": (None, None, None),
    "hard": (None, None, None),
    "easy": (None, None, None),
    "third-truth": (None, None, None),
}


@pytest.mark.parametrize("run", list(JUDGED))
def test_recorded_runs(run):
    rows = RECORDED[RECORDED["run"] == run]
    alarm = Alarm()
    for row in rows.to_dict("records"):
        alarm.update(row)
    assert (alarm.rang, alarm.sign, accuracy_fall(rows)) == JUDGED[run]


def test_every_recorded_run_is_judged_and_in_the_document(root):
    assert set(RECORDED["run"]) == set(JUDGED)
    document = (root / "docs" / "monitors.md").read_text(encoding="utf-8")
    for run, (alarm, sign, fall) in JUDGED.items():
        line = next(x for x in document.splitlines() if x.startswith(f"| {run} |"))
        cells = [cell.strip() for cell in line.split("|")]
        shown = [f"{alarm} ({sign})" if alarm else "silent", str(fall) if fall else "none"]
        assert cells[-4:-2] == shown, run


def test_every_default_is_in_the_document(root):
    document = (root / "docs" / "monitors.md").read_text(encoding="utf-8")
    rule = AlarmRule()
    for name in AlarmRule.model_fields:
        assert f"`{name}` {getattr(rule, name):g}" in document, name
