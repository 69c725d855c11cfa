"""The verdicts for the first page of the report, as reStructuredText.

Without pandas, because every job parses the rules.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from srt.claims.verdict import SIGN


def verdict_summary(table: Path) -> str:
    """How many claims have which verdict, and a table of them; one sentence while there are no verdicts yet."""
    if not table.is_file():
        return "No verdicts are written yet."
    with open(table, encoding="utf-8", newline="") as handle:
        claims = {row["claim"]: row for row in csv.DictReader(handle)}
    counts = Counter(row["verdict"] for row in claims.values())
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGN if counts[verdict])
    lines = [f"{len(claims)} claims: {told}.", "", ".. list-table::", "   :header-rows: 1", "   :widths: 60 22 18", ""]
    rows = [
        (row["statement"], f"{row['version']}, {row['where']}", f"{SIGN[row['verdict']]} {row['verdict']}")
        for row in claims.values()
    ]
    for statement, where, verdict in [("claim", "source", "verdict"), *rows]:
        lines += [f"   * - {_plain(statement)}", f"     - {_plain(where)}", f"     - {verdict}"]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """The text with the characters of reStructuredText's markup escaped."""
    return "".join(f"\\{c}" if c in "\\*`_|<>@" else c for c in " ".join(text.split()))
