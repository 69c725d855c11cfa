"""The rule: from numbers with intervals to supported, not supported or undecided, and one sentence that says why."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srt.metrics.intervals import HasInterval

SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"
SIGN = {SUPPORTED: "✓", REFUTED: "✗", UNDECIDED: "?"}
CHANCE = 0.025  # how often an interval of 95 % lies wholly beyond the truth on one side
_P_VALUES = [CHANCE * 10 ** (step / 16) for step in range(-72, 21)]  # 8e-7 to 0.44


@dataclass(frozen=True)
class Number:
    """One measured number with its 95 % interval, and how many problems, seeds and samples are behind it.

    problems is 0 for numbers without problems; samples is the n of avg@n, "8/32" where data sets differ. source gives
    the interval at other levels.
    """

    name: str
    estimate: float
    lo: float
    hi: float
    problems: int
    seeds: int
    samples: str = ""
    source: HasInterval | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict, its reason, the verdict of each number, and the p-value that all of them support it."""

    verdict: str
    reason: str
    numbers: tuple[tuple[Number, str], ...] = ()
    p: float = math.nan


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


def p_value(numbers: Sequence[Number], expect: dict[str, Any]) -> float:
    """How likely numbers that support a claim this clearly are where it is false: the largest over its numbers.

    (1 - L)/2 for the largest level L whose intervals support the claim; at most 0.025 for a supported one. Between
    8e-7 and 0.44, rounded up by at most 15 %; NaN without numbers.
    """
    if not numbers or any(number.source is None or math.isnan(number.lo) for number in numbers):
        return math.nan

    def supported(p: float) -> bool:
        ends = (number.source.interval(1 - 2 * p) for number in numbers if number.source is not None)
        return all(lo < hi and judge(lo, hi, expect) == SUPPORTED for lo, hi in ends)

    # a larger p-value has a narrower interval: the first that supports the claim
    return _P_VALUES[min(bisect.bisect_left(_P_VALUES, True, key=supported), len(_P_VALUES) - 1)]


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values; NaN stays NaN and does not count.

    Of the claims whose value is at most q, a share of q is false in expectation, however many are tested.

    >>> adjusted([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.04, nan, 0.04]
    """
    ranked = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    out, smallest = [math.nan] * len(p_values), 1.0
    for rank, (p, place) in reversed(list(enumerate(ranked, 1))):
        smallest = out[place] = min(smallest, p * len(ranked) / rank)
    return out


def decide(numbers: Sequence[Number], expect: dict[str, Any], max_width: float, min_seeds: int = 1) -> Verdict:
    """The verdict on a claim: supported if every number supports it, not supported if any refutes it.

    A number decides nothing if it has no interval or one of no width, or if fewer than `min_seeds` seeds are behind it.
    `max_width` tells an undecided number that was measured too coarsely from one that lies near the threshold.
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
    if number.lo == number.hi and math.isfinite(number.lo):
        return UNDECIDED, f"{shown} has no width: nothing varies, so nothing says how certain it is"
    verdict = judge(number.lo, number.hi, expect)
    if verdict == UNDECIDED and number.hi - number.lo > max_width:
        return UNDECIDED, f"{shown}: the interval is wider than {max_width:g}, so the run is too small"
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
