"""Grade rollouts of another project and compare our verdicts with the upstream ones, per model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from srt.answers import Grader
from srt.common.errors import SrtError, nearest
from srt.common.io import open_parquet

# Our name -> the column of the imported table; `--map` overrides single ones.
COLUMNS = {
    "response": "response", "reference": "gold", "problem": "problem_id", "by": "model", "verdict": "correct",
    "prediction": "pred", "set": "set",
}  # fmt: skip
REQUIRED = ("response", "reference")
_BATCH_ROWS = 256  # imported responses may have 100 kB each


@dataclass(frozen=True)
class ImportedVerdicts:
    """`table`: one row per response (row, set, by, problem, reference, prediction, answer, correct, upstream, reason).

    `correct` is our verdict, `upstream` that of the imported table (None without one). `left_out` counts the rows
    without a reference, which have no verdict.
    """

    table: pd.DataFrame
    left_out: int = 0

    def accuracies(self) -> pd.DataFrame:
        """One row per (set, by): `responses` (their number), `accuracy` (ours), `upstream`, `points`, `differences`.

        `points` is our accuracy minus upstream's in percentage points; `differences` counts the differing verdicts.
        """
        rows = []
        for (name, by), frame in self.table.assign(differs=self._differs()).groupby(["set", "by"], sort=True):
            ours, theirs = frame["correct"].mean(), frame["upstream"].astype(float).mean()
            rows.append(
                {
                    "set": name, "by": by, "responses": len(frame), "accuracy": ours, "upstream": theirs,
                    "points": 100 * (ours - theirs), "differences": int(frame["differs"].sum()),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """The responses on which the verdicts differ; none without upstream verdicts."""
        return self.table[self._differs()]

    def _differs(self) -> pd.Series[bool]:
        return self.table["upstream"].notna() & (self.table["correct"] != self.table["upstream"])


def parse_mapping(entries: list[str]) -> dict[str, str]:
    """`COLUMNS` with the columns of `our=theirs` entries."""
    mapping = dict(COLUMNS)
    for entry in entries:
        ours, equals, theirs = entry.partition("=")
        if not equals or ours not in COLUMNS:
            raise SrtError(f"--map {entry}: write our=theirs{nearest(ours, COLUMNS)}")
        mapping[ours] = theirs
    return mapping


def grade_imported(path: str | Path, mapping: dict[str, str], grader: Grader) -> ImportedVerdicts:
    """Grade each response of an imported table against its reference; `mapping` as from `parse_mapping`.

    Rows with an empty reference are left out and counted; SrtError if no row has a reference.
    """
    rows = list(_rows(path, mapping, grader))
    graded = [row for row in rows if row is not None]
    if not graded:
        raise SrtError(f"{path} has no row with a reference answer in the column '{mapping['reference']}'")
    return ImportedVerdicts(pd.DataFrame(graded), left_out=len(rows) - len(graded))


def _rows(path: str | Path, mapping: dict[str, str], grader: Grader) -> Iterator[dict[str, Any] | None]:
    """The verdict on each row; None for a row without a reference."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        for ours in REQUIRED:
            if mapping[ours] not in names:
                raise SrtError(
                    f"{path} lacks the column '{mapping[ours]}'{nearest(mapping[ours], names)}: "
                    f"name the one that holds the {ours} with --map {ours}=COLUMN"
                )
        present = {ours: theirs for ours, theirs in mapping.items() if theirs in names}
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=sorted(set(present.values()))):
            columns = {ours: batch.column(theirs).to_pylist() for ours, theirs in present.items()}
            responses = [text or "" for text in columns["response"]]
            references = ["" if reference is None else str(reference) for reference in columns["reference"]]
            groups = [[text] for text in responses]
            votes = grader.vote(groups)
            for i, (vote, (verdict,)) in enumerate(zip(votes, grader.verify(groups, references), strict=True)):
                if not references[i].strip():
                    yield None
                    continue
                upstream = columns["verdict"][i] if "verdict" in columns else None
                yield {
                    "row": row + i,
                    "set": str(columns["set"][i]) if "set" in columns else "all",
                    "by": str(columns["by"][i]) if "by" in columns else "all",
                    "problem": str(columns["problem"][i]) if "problem" in columns else str(row + i),
                    "reference": references[i],
                    "prediction": columns["prediction"][i] if "prediction" in columns else None,
                    "answer": vote.answers[0],
                    "correct": verdict.correct,
                    "upstream": None if upstream is None else bool(upstream),
                    "reason": verdict.reason,
                }
            row += len(responses)
