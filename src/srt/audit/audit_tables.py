"""The tables of the audit: overlaps, their pairs, the clean rows of each training set, and faulty rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from srt.audit.overlap import DEFINITION, Index, Match, index, matches, rows_of, same_answer
from srt.common import io
from srt.common.errors import SrtError
from srt.data.problem_table import read_problems

OVERLAP_COLUMNS = (
    "train", "test", "train_rows", "test_rows", "exact", "near", "contaminated", "same_answer", "share", "clean",
    "note",
)  # fmt: skip
ITSELF = "the training set itself (test-time training)"
TEMPLATE = "generated: exact matches only"


@dataclass(frozen=True)
class Fault:
    """One row that is wrong or repeated; the columns of the table of faults."""

    dataset: str
    row: int | str  # its number in the table, "" for a row that was dropped
    id: str
    fault: str
    answer: str = ""
    other_ids: str = ""
    other_answers: str = ""
    action: str = "kept"


@dataclass
class Audit:
    """The tables, as frames; columns in docs/data.md."""

    overlap: pd.DataFrame
    pairs: pd.DataFrame
    clean_rows: pd.DataFrame
    faults: pd.DataFrame
    fingerprints: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write every table; the parquet files' metadata have the data sets' fingerprints and the definition."""
        about = {"data": self.fingerprints, "definition": DEFINITION}
        for name, frame in (("overlap", self.overlap), ("pairs", self.pairs)):
            io.write_csv(folder / f"{name}.csv", frame)
            io.write_parquet(folder / f"{name}.parquet", frame, about)
        io.write_parquet(folder / "clean_rows.parquet", self.clean_rows, about)
        io.write_csv(folder / "faults.csv", self.faults)


def audit(
    paths: Mapping[str, Path], train: Sequence[str], test: Sequence[str], generated: Sequence[str] = (),
    manifests: Mapping[str, Path] | None = None,
) -> Audit:  # fmt: skip
    """Compare every training with every test set.

    Args:
        paths: problem table of each data set.
        train, test: names, in the order of the output; a set in both is not compared with itself.
        generated: sets generated from templates; pairs with one of them have exact matches only.
        manifests: manifests of the data rule, for the rows that it dropped.
    """
    tables: dict[str, pa.Table] = {}
    for name in dict.fromkeys([*train, *test]):
        if name not in paths:
            raise SrtError(f"no problem table is given for data set '{name}': name its file")
        tables[name] = read_problems(paths[name])
    indexed = {name: index(table, name, name in generated) for name, table in tables.items()}
    found: dict[tuple[str, str], list[Match]] = {}
    for a in train:
        for b in test:
            if a != b:
                found[a, b] = matches(indexed[a], indexed[b])
    pairs = pd.DataFrame(
        rows_of([m for some in found.values() for m in some]), columns=[f.name for f in fields(Match)]
    ).astype({"jaccard": float, "containment": float, "same_answer": bool, "same_numbers": bool})
    overlap = pd.DataFrame(
        [_overlap(indexed[a], indexed[b], found.get((a, b)), generated) for a in train for b in test],
        columns=list(OVERLAP_COLUMNS),
    )
    clean = pd.concat([_clean(a, indexed[b], found.get((a, b))) for a in train for b in test], ignore_index=True)
    marks = {name: str(io.parquet_metadata(paths[name]).get("fingerprint", "")) for name in tables}
    return Audit(overlap, pairs, clean, faults(indexed, manifests or {}), marks)


def _overlap(train: Index, test: Index, found: list[Match] | None, generated: Sequence[str]) -> dict[str, Any]:
    row = {"train": train.name, "test": test.name, "train_rows": len(train.ids), "test_rows": len(test.ids)}
    if found is None:
        everything = {"exact": len(test.ids), "near": 0, "contaminated": len(test.ids), "same_answer": len(test.ids)}
        return {**row, **everything, "share": 1.0, "clean": 0, "note": ITSELF}
    exact = {m.test_id for m in found if m.kind == "exact"}
    either = {m.test_id for m in found}
    return {
        **row,
        "exact": len(exact),
        "near": len(either - exact),
        "contaminated": len(either),
        "same_answer": len({m.test_id for m in found if m.same_answer}),
        "share": len(either) / len(test.ids),
        "clean": len(test.ids) - len(either),
        "note": TEMPLATE if {train.name, test.name} & set(generated) else "",
    }


def _clean(train: str, test: Index, found: list[Match] | None) -> pd.DataFrame:
    dirty = {m.test_id for m in found} if found is not None else set(test.ids)
    clean = [i not in dirty for i in test.ids]
    return pd.DataFrame({"train": train, "test": test.name, "problem_id": test.ids, "clean": clean})


def faults(tables: Mapping[str, Index], manifests: Mapping[str, Path]) -> pd.DataFrame:
    """Rows that are wrong or repeated within one data set, one line per row.

    `empty answer` and other rows that the data rule dropped come from its manifest; their `row` is empty, as they are
    not in the table. `conflicting answers` and `repeated question` come from the normalised texts; the first of
    repeated questions with one answer is not listed. `action` says what was done with the row, by the entry's
    `on_empty_answer`, `on_duplicate_problem` and `on_conflicting_answers` (docs/config/datasets.md).
    """
    rows: list[Fault] = []
    for name, table in tables.items():
        if name in manifests:
            for reason, what in io.read_json(manifests[name]).get("dropped", {}).items():
                rows += [Fault(name, "", identity, reason, action="dropped") for identity in what["ids"]]
        for same in table.rows_of.values():
            if len(same) < 2:
                continue
            answers = [table.answers[r] for r in same]
            agree = all(same_answer(answers[0], a, table.tasks[same[0]]) for a in answers[1:])
            fault = "repeated question" if agree else "conflicting answers"
            for place, row in enumerate(same):
                if agree and place == 0:
                    continue
                others = [r for r in same if r != row]
                ids, theirs = " ".join(table.ids[r] for r in others), " | ".join(table.answers[r] for r in others)
                rows.append(Fault(name, row, table.ids[row], fault, table.answers[row], ids, theirs))
    return pd.DataFrame([vars(row) for row in rows], columns=[field.name for field in fields(Fault)])
