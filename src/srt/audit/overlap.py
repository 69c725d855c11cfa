"""All exact and near matches between the questions of two problem tables.

Exact: equal after `srt.data.question_text.normalise`. Near: with A, B the sets of 8-byte shingles of the normalised
cores of the test and the training question, |A & B| / |A | B| >= `JACCARD`, or |A & B| / |A| >= `CONTAINMENT` and the
first ratio at least `JACCARD_FLOOR` (a short test question would otherwise be "in" every long one with the same
opening).

Without sampling or hashing: an inverted index from shingle to training rows gives |A & B| for every pair of rows, so
exactly the pairs of the definition are found, in whatever order the rows are. Translations and paraphrases are not
found.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from srt.answers.canonical import canonical
from srt.answers.grader import alternatives
from srt.data.question_text import core, normalise, numbers, shingles

JACCARD = 0.6
CONTAINMENT = 0.8
JACCARD_FLOOR = 0.4
DEFINITION = {"shingle_bytes": 8, "jaccard": JACCARD, "containment": CONTAINMENT, "jaccard_floor": JACCARD_FLOOR}


@dataclass(frozen=True)
class Match:
    """One test row that is also a training row; the columns of the table of pairs."""

    train: str
    train_id: str
    test: str
    test_id: str
    kind: str  # "exact" or "near"
    jaccard: float  # of the cores' shingles; 1 where both are too short for any
    containment: float  # share of the test question's shingles that the training question has
    same_answer: bool
    same_numbers: bool  # of the cores; False: a variant with other numbers, or more text
    train_answer: str
    test_answer: str


@dataclass
class Index:
    """An indexed problem table: keys for exact matches, and an inverted index from shingle to rows."""

    name: str
    ids: list[str]
    answers: list[str]
    tasks: list[str]
    cores: list[str]
    keys: list[str]
    rows_of: dict[str, list[int]]
    shingles: list[np.ndarray]  # one sorted uint64 array per row
    sizes: np.ndarray  # int64 [rows]
    tokens: np.ndarray  # uint64, all rows' shingles, sorted
    rows: np.ndarray  # int64, the row of each of `tokens`


def index(table: pa.Table, name: str, generated: bool = False) -> Index:
    """Index a problem table; a `generated` one has exact matches only (no shingles)."""
    columns = table.select(["id", "problem", "answer", "task"]).to_pydict()
    answers = [answer or "" for answer in columns["answer"]]  # unlabelled data have none
    keys = [normalise(text) for text in columns["problem"]]
    cores = [core(text) for text in columns["problem"]]
    sets = [np.empty(0, np.uint64) if generated else shingles(normalise(text)) for text in cores]
    sizes = np.array([len(s) for s in sets], dtype=np.int64)
    tokens = np.concatenate(sets) if sets else np.empty(0, np.uint64)
    rows = np.repeat(np.arange(len(sets)), sizes)
    order = np.argsort(tokens, kind="stable")
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    return Index(
        name, columns["id"], answers, columns["task"], cores, keys, dict(rows_of), sets, sizes,
        tokens[order], rows[order],
    )  # fmt: skip


def shared_shingles(train: Index, some: np.ndarray) -> np.ndarray:
    """|A & B| for a set A of shingles and every row B of `train`: int64 [rows]."""
    left, right = np.searchsorted(train.tokens, some, "left"), np.searchsorted(train.tokens, some, "right")
    hits = [train.rows[a:b] for a, b in zip(left, right, strict=True) if b > a]
    return np.bincount(np.concatenate(hits), minlength=len(train.ids)) if hits else np.zeros(len(train.ids), np.int64)


def matches(train: Index, test: Index) -> list[Match]:
    """All matches, ordered by test row, then by training row."""
    found = []
    for i, some in enumerate(test.shingles):
        exact = set(train.rows_of.get(test.keys[i], ())) if test.keys[i] else set()
        shared = shared_shingles(train, some) if len(some) and len(train.tokens) else np.zeros(len(train.ids), np.int64)
        jaccard = shared / np.maximum(len(some) + train.sizes - shared, 1)
        containment = shared / max(len(some), 1)
        near = (jaccard >= JACCARD) | ((containment >= CONTAINMENT) & (jaccard >= JACCARD_FLOOR))
        for j in sorted(exact | set(np.flatnonzero(near).tolist())):
            full = j in exact and not shared[j]  # generated, or too short for a shingle
            row = {
                "train": train.name, "train_id": train.ids[j], "test": test.name, "test_id": test.ids[i],
                "kind": "exact" if j in exact else "near",
                "jaccard": 1.0 if full else round(float(jaccard[j]), 6),
                "containment": 1.0 if full else round(float(containment[j]), 6),
                "same_answer": same_answer(train.answers[j], test.answers[i], test.tasks[i]),
                "same_numbers": numbers(train.cores[j]) == numbers(test.cores[i]),
                "train_answer": train.answers[j], "test_answer": test.answers[i],
            }  # fmt: skip
            found.append(Match(**row))
    return found


def same_answer(a: str, b: str, task: str = "math") -> bool:
    """Whether two reference answers agree: by canonical form for mathematics, else by text.

    >>> same_answer("1/2", "0.5"), same_answer("080 or 081", "81"), same_answer("7", "8")
    (True, True, False)
    """
    if task != "math":
        return a.strip() == b.strip()
    return bool({canonical(x) for x in alternatives(a)} & {canonical(x) for x in alternatives(b)})


def rows_of(found: list[Match]) -> list[dict[str, Any]]:
    """Matches as mappings, in the order of `Match`'s fields."""
    return [asdict(match) for match in found]
