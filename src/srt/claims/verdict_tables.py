"""The claims with their verdicts: CSV with one row per number, Markdown and HTML with one row per claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from srt.claims.check_claims import Checked
from srt.claims.verdict import SIGN, digits, region_of
from srt.common.markup import fill_template, markdown_table

COLUMNS = [
    "claim", "version", "where", "statement", "verdict", "estimator", "number", "estimate", "lo", "hi", "expect",
    "number_verdict", "max_width", "problems", "seeds", "reason",
]  # fmt: skip
_PAGE = Path(__file__).with_name("claims.html")
_ONE_SEED = "One seed: the intervals hold the spread over problems, not over training runs."


def to_frame(checked: list[Checked]) -> pd.DataFrame:
    """One row per number; a claim without a number has one row."""
    rows = []
    for item in checked:
        claim, verdict = item.claim, item.verdict
        head = {"claim": item.name, **{key: claim[key] for key in ("version", "where", "statement")}}
        head |= {"verdict": verdict.verdict, "reason": verdict.reason, "estimator": claim.get("estimator", "")}
        if "expect" in claim:
            head |= {"expect": region_of(claim["expect"]), "max_width": claim["max_width"]}
        for number, judged in verdict.numbers:
            rows.append(
                {
                    **head, "number": number.name, "estimate": number.estimate, "lo": number.lo, "hi": number.hi,
                    "number_verdict": judged, "problems": number.problems or None, "seeds": number.seeds,
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


def to_markdown(checked: list[Checked]) -> str:
    """The table of verdicts in Markdown."""
    parts = [f"{len(checked)} claims: {counts(checked)}."]
    if _single_seed(checked):
        parts.append(_ONE_SEED)
    rows = [
        [f"`{item.name}`", _source(item), item.claim["statement"], f"**{item.verdict.verdict}**",
         "<br>".join(_numbers(item)), item.verdict.reason]
        for item in checked
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
            "statement": item.claim["statement"],
            "source": _source(item),
            "numbers": _numbers(item),
            "reason": item.verdict.reason,
        }
        for item in checked
    ]
    return fill_template(
        _PAGE.read_text(encoding="utf-8"),
        title=title,
        claims=claims,
        counts=counts(checked),
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
        f"{number.name}: {digits(number.estimate)} [{digits(number.lo)}, {digits(number.hi)}]"
        for number, _ in item.verdict.numbers
    ]
    return [text + region for text in shown]
