"""The verdicts for the first page of the report, as reStructuredText, and the names of figures in its list.

Without pandas, because every job parses the rules.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from srt.claims.verdict import SIGN

FIGURE_SPACE = "\u2007"


def verdict_summary(table: Path) -> str:
    """How many claims have which verdict, and a table of them; one sentence while there are no verdicts yet."""
    if not table.is_file():
        return "No verdicts are written yet."
    with open(table, encoding="utf-8", newline="") as handle:
        claims = {row["claim"]: row for row in csv.DictReader(handle)}
    counts = Counter(row["verdict"] for row in claims.values())
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGN if counts[verdict])
    head = f"{len(claims)} claim{'s' * (len(claims) != 1)}: {told}."
    lines = [head, "", ".. list-table::", "   :header-rows: 1", "   :widths: 60 22 18", ""]
    rows = [
        (row["statement"], f"{row['version']}, {row['where']}", f"{SIGN[row['verdict']]} {row['verdict']}")
        for row in claims.values()
    ]
    for statement, where, verdict in [("claim", "source", "verdict"), *rows]:
        lines += [f"   * - {_plain(statement)}", f"     - {_plain(where)}", f"     - {verdict}"]
    return "\n".join(lines)


def figure_label(name: str, title: str) -> str:
    """A figure's number and title. The report sorts such texts letter by letter, so short numbers are padded.

    >>> figure_label("fig2", "Dynamics") == "Figure \u20072: Dynamics"  # a space as wide as a digit
    True
    >>> figure_label("v2_table10", "Costs"), figure_label("levels", "Climbing")
    ('v2 Table 10: Costs', 'Further: Climbing')
    """
    if not (found := re.fullmatch(r"(v2_)?(fig|table)(\d+)", name)):
        return f"Further: {title}"
    version, kind, number = found.groups()
    kind = {"fig": "Figure", "table": "Table"}[kind]
    return f"{'v2 ' if version else ''}{kind} {number.rjust(2, FIGURE_SPACE)}: {title}"


def _plain(text: str) -> str:
    """The text with the characters of reStructuredText's markup escaped."""
    return "".join(f"\\{c}" if c in "\\*`_|<>@" else c for c in " ".join(text.split()))
