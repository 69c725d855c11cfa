"""The alarm on runs that its rule never saw: the tasks are what they say, and the document has the judgement."""

from __future__ import annotations

import random
import sys

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
