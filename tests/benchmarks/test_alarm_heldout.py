"""The alarm on runs that its rule never saw: the tasks are what they say, and the document has the judgement."""

from __future__ import annotations

import random
import sys

import pandas as pd
import pytest

from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import alarm_heldout


def value(family: str, expression: str) -> int:
    """By another way than the worked solution."""
    return expression.split().count("1") if family == "counting" else eval(expression)


@pytest.mark.parametrize("name", alarm_heldout.families())
def test_solutions_are_right_until_they_are_corrupted(name: str) -> None:
    family, rng = alarm_heldout.families()[name], random.Random(3)
    for beyond in (False, True):
        drawn = [family.draw(rng, beyond) for _ in range(40)]
        assert [int(alarm_heldout.answer(family, text)) for text in drawn] == [value(name, text) for text in drawn]
        wrong = [family.solve(text, rng, 0.9) != family.solve(text, rng, 0.0) for text in drawn]
        assert sum(wrong) > 30


def test_the_document_has_the_judgement_of_the_stored_runs() -> None:
    runs = pd.read_csv(ROOT / "tests/metrics/alarm_heldout.csv")
    counted = runs.groupby(["family", "arm"])["seed"].agg(lambda seeds: tuple(dict.fromkeys(seeds)))
    expected = {
        (family, arm): seeds for family in alarm_heldout.families() for arm, (*_, seeds) in alarm_heldout.ARMS.items()
    }
    assert (
        counted.to_dict() == expected and (runs.groupby(["family", "arm", "seed"]).size() == alarm_heldout.STEPS).all()
    )
    text = (ROOT / "docs/monitors.md").read_text(encoding="utf-8")
    judged = alarm_heldout.judge(runs)
    assert alarm_heldout.to_markdown(judged) in text
    # what the text says of them: every fall is followed by an alarm, none is preceded by one
    fell = judged[judged["fall"].notna()]
    assert len(fell) == 10 and not fell["missed"].any() and fell["lead"].between(-29, -1).all()
    assert fell[fell["family"] == "sums"]["lead"].between(-3, -1).all()
    assert judged[judged["false"]]["family"].tolist() == ["counting"] * 2
    assert not judged[judged["arm"] == "truth"]["alarm"].notna().any()


def test_none_of_these_runs_was_there_to_choose_the_rule() -> None:
    tuned = pd.read_csv(ROOT / "tests/metrics/alarm_runs.csv")
    heldout = pd.read_csv(ROOT / "tests/metrics/alarm_heldout.csv")
    columns = ["true_accuracy", "majority_ratio", "kl", "response_length"]
    seen = {tuple(row) for row in tuned[tuned["step"] > 1][columns].to_numpy()}
    assert not any(tuple(row) in seen for row in heldout[heldout["step"] > 1][columns].to_numpy())
