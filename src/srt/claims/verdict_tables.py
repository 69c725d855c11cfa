"""The claims with their verdicts: CSV with one row per number, Markdown and HTML with one row per claim."""

from __future__ import annotations

import html
from collections import Counter

import pandas as pd

from srt.claims.check import Checked
from srt.claims.verdict import REFUTED, SIGN, SUPPORTED, UNDECIDED, digits, region_of

COLUMNS = [
    "claim", "version", "where", "statement", "verdict", "estimator", "number", "estimate", "lo", "hi", "expect",
    "number_verdict", "max_width", "problems", "seeds", "reason",
]  # fmt: skip
_ONE_SEED = "One seed: the intervals hold the spread over problems, not over training runs."


def to_frame(checked: list[Checked]) -> pd.DataFrame:
    """One row a number; a claim without a number has one row, too."""
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
    return ", ".join(f"{tally[verdict]} {verdict}" for verdict in (SUPPORTED, REFUTED, UNDECIDED))


def to_markdown(checked: list[Checked]) -> str:
    """The table of verdicts, for reading and for `docs`."""
    lines = [f"{len(checked)} claims: {counts(checked)}.", ""]
    if _single_seed(checked):
        lines += [_ONE_SEED, ""]
    lines += ["| claim | source | statement | verdict | numbers [95 %] | reason |", "|---|---|---|---|---|---|"]
    for item in checked:
        cells = (f"`{item.name}`", _source(item), item.claim["statement"], f"**{item.verdict.verdict}**",
                 "<br>".join(_numbers(item)), item.verdict.reason)  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .45rem .6rem; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; } th { border-bottom: 2px solid #888; } code { font-size: 12px; color: #555; }
td.v { white-space: nowrap; font-weight: 600; } .small { font-size: 13px; color: #444; }
.supported { color: #117733; } .refuted { color: #882255; } .undecided { color: #666; }
"""
_CLASS = {SUPPORTED: "supported", REFUTED: "refuted", UNDECIDED: "undecided"}


def to_html(checked: list[Checked], title: str) -> str:
    """The table of verdicts as one self-contained page, for the report."""
    head = "".join(f"<th>{name}</th>" for name in ("Verdict", "Statement", "Source", "Numbers [95 %]", "Reason"))
    rows = []
    for item in checked:
        verdict = item.verdict.verdict
        cells = [
            f'<td class="v {_CLASS[verdict]}">{SIGN[verdict]} {verdict}</td>',
            f"<td>{html.escape(item.claim['statement'])}<br><code>{item.name}</code></td>",
            f'<td class="small">{html.escape(_source(item))}</td>',
            f'<td class="small">{"<br>".join(html.escape(text) for text in _numbers(item))}</td>',
            f'<td class="small">{html.escape(item.verdict.reason)}</td>',
        ]
        rows.append(f'<tr id="{item.name}">{"".join(cells)}</tr>')
    note = f"<p>{_ONE_SEED}</p>" if _single_seed(checked) else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>{len(checked)} claims: {counts(checked)}.</p>{note}"
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></body></html>\n"
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
