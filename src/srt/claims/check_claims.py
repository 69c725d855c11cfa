"""Every claim of a configuration, measured by its estimator and judged by the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from srt.claims import accuracy_estimators, training_estimators, vote_estimators
from srt.claims.evidence import Evidence, Undecided, View
from srt.claims.trained_questions import Seen, read_clean, seen
from srt.claims.verdict import SUPPORTED, UNDECIDED, Number, Verdict, decide, p_value
from srt.common.errors import SrtError, nearest

ESTIMATORS: dict[str, Callable[[View, dict[str, Any]], list[Number]]] = {
    **accuracy_estimators.ESTIMATORS, **vote_estimators.ESTIMATORS, **training_estimators.ESTIMATORS,
}  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """A claim of the spec, and its verdict."""

    name: str
    claim: dict[str, Any]
    verdict: Verdict


def check_claims(spec: dict[str, Any], partial: bool = False) -> list[Checked]:
    """The verdict on each claim of a spec (`srt.claims.resolve.resolve_claims`), in its order.

    `partial`: a table that is not made yet makes a claim undecided instead of being an error.
    """
    evidence, clean = Evidence(spec, partial), read_clean(spec, partial)
    checked = []
    for name, claim in spec["claims"].items():
        verdict = _check(evidence, name, claim)
        if verdict.verdict == SUPPORTED and clean is not None and (trained := seen(spec, claim["options"], clean)):
            verdict = _without(trained, verdict, _check(Evidence(spec, partial, trained), name, claim))
        checked.append(Checked(name, claim, verdict))
    return checked


def _without(trained: list[Seen], verdict: Verdict, rest: Verdict) -> Verdict:
    """The verdict on all questions if the one on the `rest`, without trained ones, is the same; else undecided."""
    told = " and ".join(map(str, trained))
    if rest.verdict == SUPPORTED:
        return replace(verdict, reason=f"{verdict.reason} Without them as well: {told}.")
    reason = f"Supported only with questions that were trained on ({told}). Without them: {rest.reason}"
    return replace(verdict, verdict=UNDECIDED, reason=reason, p=rest.p)


def _check(evidence: Evidence, name: str, claim: dict[str, Any]) -> Verdict:
    if "untested" in claim:
        return Verdict(UNDECIDED, f"Not tested: {_sentence(claim['untested'])}")
    estimator = claim["estimator"]
    if estimator not in ESTIMATORS:
        raise SrtError(f"claim '{name}': unknown estimator '{estimator}'{nearest(estimator, ESTIMATORS)}")
    try:
        numbers = ESTIMATORS[estimator](View(evidence), claim["options"])
    except Undecided as why:
        return Verdict(UNDECIDED, _sentence(str(why)))
    verdict = decide(numbers, claim["expect"], claim["max_width"], claim.get("min_seeds", 1))
    return replace(verdict, reason=_sentence(verdict.reason), p=p_value(numbers, claim["expect"]))


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
