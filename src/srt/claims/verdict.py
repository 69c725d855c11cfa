"""The rule: from numbers with intervals to supported, not supported or undecided, and one sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"
SIGN = {SUPPORTED: "✓", REFUTED: "✗", UNDECIDED: "?"}


@dataclass(frozen=True)
class Number:
    """One measured number with its 95 % interval, and how many problems and seeds are behind it."""

    name: str
    estimate: float
    lo: float
    hi: float
    problems: int
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict, its reason, and the verdict of each number."""

    verdict: str
    reason: str
    numbers: tuple[tuple[Number, str], ...] = ()


def judge(lo: float, hi: float, expect: dict[str, Any]) -> str:
    """Where an interval lies: wholly in the expected region, wholly outside, or neither.

    `above` x: lo > x supports and hi <= x refutes; `below` is its mirror image; `within` [a, b]: a <= lo and hi <= b
    supports, hi < a or lo > b refutes. An equivalence is thus never supported by a mere lack of evidence.

    >>> judge(0.01, 0.05, {"above": 0}), judge(-0.01, 0.05, {"above": 0}), judge(-0.02, 0.0, {"above": 0})
    ('supported', 'undecided', 'not supported')
    """
    if "above" in expect:
        inside, outside = lo > expect["above"], hi <= expect["above"]
    elif "below" in expect:
        inside, outside = hi < expect["below"], lo >= expect["below"]
    else:
        a, b = expect["within"]
        inside, outside = a <= lo and hi <= b, hi < a or lo > b
    return SUPPORTED if inside else REFUTED if outside else UNDECIDED


def decide(numbers: Sequence[Number], expect: dict[str, Any], max_width: float, min_seeds: int = 1) -> Verdict:
    """The verdict on a claim: supported if every number supports it, not supported if any refutes it.

    A number decides nothing if it has no interval, if that is wider than `max_width`, or if fewer than `min_seeds`
    seeds are behind it.
    """
    judged = [(number, *_one(number, expect, max_width, min_seeds)) for number in numbers]
    for wanted in (REFUTED, UNDECIDED, SUPPORTED):
        found = [(number, why) for number, verdict, why in judged if verdict == wanted]
        if not found:
            continue
        why = found[0][1]
        if wanted == SUPPORTED and len(judged) > 1:
            why = min(found, key=lambda item: _margin(item[0], expect))[1]  # the weakest of them
            why = f"all {len(judged)} numbers do; the closest: {why}"
        return Verdict(wanted, f"{why}.", tuple((number, verdict) for number, verdict, _ in judged))
    return Verdict(UNDECIDED, "There is no number.", ())


def _one(number: Number, expect: dict[str, Any], max_width: float, min_seeds: int) -> tuple[str, str]:
    shown, region = show(number), region_of(expect)
    if math.isnan(number.lo) or math.isnan(number.hi):
        return UNDECIDED, f"{number.name} has no interval"
    if number.seeds < min_seeds:
        some = "1 seed" if number.seeds == 1 else f"{number.seeds} seeds"
        return UNDECIDED, f"{shown} is from {some}, and the claim needs {min_seeds}"
    width = 0.0 if number.lo == number.hi else number.hi - number.lo
    if width > max_width:
        return UNDECIDED, f"{shown}: the interval is wider than {max_width:g}, so the run is too small"
    verdict = judge(number.lo, number.hi, expect)
    says = {
        SUPPORTED: f"{shown} is {region}",
        REFUTED: f"{shown} is not {region}",
        UNDECIDED: f"{shown}: the interval is neither {region} nor clear of it",
    }
    return verdict, says[verdict]


def _margin(number: Number, expect: dict[str, Any]) -> float:
    """How far an interval lies inside the expected region."""
    if "above" in expect:
        return float(number.lo - expect["above"])
    if "below" in expect:
        return float(expect["below"] - number.hi)
    a, b = expect["within"]
    return float(min(number.lo - a, b - number.hi))


def show(number: Number) -> str:
    """A number as people read it: `rise 0.12 [0.08, 0.15]`."""
    return f"{number.name} {digits(number.estimate)} [{digits(number.lo)}, {digits(number.hi)}]"


def region_of(expect: dict[str, Any]) -> str:
    """The expected region in words."""
    if "within" in expect:
        return f"within [{expect['within'][0]:g}, {expect['within'][1]:g}]"
    key = "above" if "above" in expect else "below"
    return f"{key} {expect[key]:g}"


def digits(value: float) -> str:
    """Three decimals for fractions, fewer for large numbers."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
    return text.replace("-0.000", "0.000") if float(text) == 0 else text
