"""The claims with their verdicts: CSV with one row per number, Markdown and HTML with one row per claim."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pandas as pd

from srt.claims.check_claims import Checked
from srt.claims.verdict import CHANCE, SIGN, SUPPORTED, Number, adjusted, digits, region_of
from srt.common.markup import fill_template, markdown_table

COLUMNS = [
    "claim", "version", "where", "statement", "verdict", "estimator", "number", "estimate", "lo", "hi", "expect",
    "number_verdict", "max_width", "problems", "seeds", "samples", "p", "p_adjusted", "reason",
]  # fmt: skip
_PAGE = Path(__file__).with_name("claims.html")
_ONE_SEED = "One seed: the intervals hold the spread over problems, not over training runs."
FALSE_DISCOVERIES = 0.05  # share of false ones among the supported claims that the correction allows


def to_frame(checked: list[Checked]) -> pd.DataFrame:
    """One row per number; a claim without a number has one row."""
    rows = []
    corrected = adjusted([item.verdict.p for item in checked])
    for item, q in zip(checked, corrected, strict=True):
        claim, verdict = item.claim, item.verdict
        head = {"claim": item.name, **{key: claim[key] for key in ("version", "where", "statement")}}
        head |= {"verdict": verdict.verdict, "reason": verdict.reason, "estimator": claim.get("estimator", "")}
        head |= {"p": verdict.p, "p_adjusted": q}
        if "expect" in claim:
            head |= {"expect": region_of(claim["expect"]), "max_width": claim["max_width"]}
        for number, judged in verdict.numbers:
            rows.append(
                {
                    **head, "number": number.name, "estimate": number.estimate, "lo": number.lo, "hi": number.hi,
                    "number_verdict": judged, "problems": number.problems or None, "seeds": number.seeds,
                    "samples": number.samples or None,
                }
            )  # fmt: skip
        if not verdict.numbers:
            rows.append(head)
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    return frame.astype({"problems": "Int64", "seeds": "Int64"})


def counts(checked: list[Checked]) -> str:
    """How many claims have which verdict, in one line."""
    tally = Counter(item.verdict.verdict for item in checked)
    return ", ".join(f"{tally[verdict]} {verdict}" for verdict in SIGN)


def chance(checked: list[Checked]) -> str:
    """What chance alone would do among so many claims, and what is left after correction for their number."""
    measured = [item for item in checked if not math.isnan(item.verdict.p)]
    supported = sum(item.verdict.verdict == SUPPORTED for item in checked)
    if not measured:
        return "Nothing is measured."
    return (
        f"If none of the {len(measured)} measured claims were true, at most {CHANCE * len(measured):.1f} would be "
        f"supported by chance. {sum(_remains(checked))} of the {supported} supported ones remain after Benjamini and "
        f"Hochberg's correction for their number (at most {FALSE_DISCOVERIES:.0%} of these false, in expectation)."
    )


def _remains(checked: list[Checked]) -> list[bool]:
    """Which claims are supported after the correction, too."""
    corrected = adjusted([item.verdict.p for item in checked])
    return [
        item.verdict.verdict == SUPPORTED and q <= FALSE_DISCOVERIES for item, q in zip(checked, corrected, strict=True)
    ]


def _corrected(checked: list[Checked]) -> list[str]:
    """The verdicts, those that the correction takes back with a note."""
    return [
        item.verdict.verdict + (" (not after correction)" if item.verdict.verdict == SUPPORTED and not left else "")
        for item, left in zip(checked, _remains(checked), strict=True)
    ]


def to_markdown(checked: list[Checked]) -> str:
    """The table of verdicts in Markdown."""
    parts = [f"{len(checked)} claims: {counts(checked)}.", chance(checked)]
    if _single_seed(checked):
        parts.append(_ONE_SEED)
    rows = [
        [f"`{item.name}`", _source(item), item.claim["statement"], f"**{verdict}**",
         "<br>".join(_numbers(item)), item.verdict.reason]
        for item, verdict in zip(checked, _corrected(checked), strict=True)
    ]  # fmt: skip
    head = ["claim", "source", "statement", "verdict", "numbers [95 %]", "reason"]
    parts.append(markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows]))
    return "\n\n".join(parts) + "\n"


def to_html(checked: list[Checked], title: str) -> str:
    """The table of verdicts as one self-contained page, for the report."""
    claims = [
        {
            "name": item.name,
            "verdict": item.verdict.verdict,
            "shown": shown,
            "statement": item.claim["statement"],
            "source": _source(item),
            "numbers": _numbers(item),
            "reason": item.verdict.reason,
        }
        for item, shown in zip(checked, _corrected(checked), strict=True)
    ]
    return fill_template(
        _PAGE.read_text(encoding="utf-8"),
        title=title,
        claims=claims,
        counts=counts(checked),
        chance=chance(checked),
        note=_ONE_SEED if _single_seed(checked) else "",
        sign=SIGN,
    )


def _single_seed(checked: list[Checked]) -> bool:
    return any(number.seeds == 1 for item in checked for number, _ in item.verdict.numbers)


def _source(item: Checked) -> str:
    version = {"ours": "this workflow"}.get(item.claim["version"], item.claim["version"])
    return f"{version}, {item.claim['where']}"


def _numbers(item: Checked) -> list[str]:
    region = f" (expected: {region_of(item.claim['expect'])})" if "expect" in item.claim else ""
    shown = [
        f"{number.name}: {digits(number.estimate)} [{digits(number.lo)}, {digits(number.hi)}] ({n_of(number)})"
        for number, _ in item.verdict.numbers
    ]
    return [text + region for text in shown]


def n_of(number: Number) -> str:
    """How many seeds, problems and samples are behind a number, in words."""
    parts = [f"{number.seeds} seed{'s' * (number.seeds != 1)}"]
    parts += [f"{number.problems} problem{'s' * (number.problems != 1)}"] if number.problems else []
    parts += [f"{number.samples} samples"] if number.samples else []
    return ", ".join(parts)
