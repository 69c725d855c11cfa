"""Preferences: responses to train on, chosen from a teacher's scored samples by votes and never by true answers.

The table is parquet with one row per response, the responses of a problem adjacent and problems in the samples' order:
problem_id str, sample int32, chosen bool, answer str, votes int32 (number of the n samples with that answer),
weight float64, token_ids list<int32> (including the end token if it was drawn).

- kind `sft`: responses with the majority answer, if at least a share `threshold` of all n has it; weight 1.
- kind `pairs`: two rows per problem, a response with the answer that has the most votes and one with the answer that
  has the fewest, if they are more than `margin` votes apart. Both have weight w = (V(chosen) - V(rejected)) / n (ScPO,
  Prasad et al. 2024). A response without an answer has no votes and is never drawn; that is our choice.

Draws are by `srt.rollout.sample_key` of (seed, data set, problem, role), so those of a problem do not depend on others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from srt.common.errors import SrtError
from srt.common.io import open_parquet, parquet_metadata, read_parquet, sha256_file, write_parquet
from srt.rollout import sample_key

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()), ("sample", pa.int32()), ("chosen", pa.bool_()), ("answer", pa.string()),
        ("votes", pa.int32()), ("weight", pa.float64()), ("token_ids", pa.list_(pa.int32())),
    ]
)  # fmt: skip
SCORES = ("dataset", "problem_id", "sample", "answer", "class_id")  # not `correct`: true answers stay out
KINDS = ("sft", "pairs")


def choose(
    classes: Sequence[int], samples: Sequence[int], name: str, spec: Mapping[str, Any]
) -> list[tuple[int, bool, int, float]]:
    """The responses of one problem as (index among its samples, chosen, votes, weight); empty if it is not used.

    `classes`: the answer class of each of the n samples, 0 for the majority and -1 without an answer (see
    `srt.answers.Vote`).
    """
    n, counts = len(classes), Counter(c for c in classes if c >= 0)
    if not counts:
        return []

    def drawn(answer: set[int], role: str) -> list[int]:
        places = [i for i, c in enumerate(classes) if c in answer]
        return sorted(places, key=lambda i: sample_key(spec["seed"], f"{name}/{role}", samples[i]))

    if spec["kind"] == "sft":
        if counts[0] / n < spec["threshold"] - 1e-9:
            return []
        return [(i, True, counts[0], 1.0) for i in sorted(drawn({0}, "chosen")[: spec["responses"]])]
    fewest = min(counts.values())
    apart = counts[0] - fewest
    if apart <= spec["margin"] or len(counts) < 2:
        return []
    best = drawn({0}, "chosen")[0]
    worst = drawn({c for c, votes in counts.items() if votes == fewest}, "rejected")[0]
    return [(best, True, counts[0], apart / n), (worst, False, fewest, apart / n)]


def make_preferences(samples: Path, scores: Path, spec: Mapping[str, Any], out: Path) -> dict[str, int]:
    """Write the table for `spec` (kind, seed, and the keys of the kind); return counts for the log."""
    if spec["kind"] not in KINDS:
        raise SrtError(f"--spec: unknown kind '{spec['kind']}': use sft or pairs")
    parts, problems, used = [], 0, 0
    for start, rows in _problems(scores):
        problems += 1
        name = f"{rows['dataset'][0]}/{rows['problem_id'][0]}"
        found = choose(rows["class_id"], rows["sample"], name, spec)
        used += bool(found)
        for place, chosen, votes, weight in found:
            parts.append((start + place, rows["problem_id"][0], rows["sample"][place], chosen,
                          rows["answer"][place], votes, weight))  # fmt: skip
    if not parts:
        raise SrtError(
            f"{scores}: no problem has responses for kind '{spec['kind']}' with {dict(spec)}: lower the run's "
            "preference.threshold or preference.margin, or sample more responses"
        )
    wanted = np.array([p[0] for p in parts])
    columns = list(zip(*(p[1:] for p in parts), strict=True))
    tokens = _tokens(samples, wanted, columns[0], columns[1])
    arrays = [pa.array(c, f.type) for c, f in zip(columns, list(SCHEMA)[:-1], strict=True)]
    table = pa.Table.from_arrays([*arrays, tokens], schema=SCHEMA)
    write_parquet(out, table, {"spec": dict(spec), "checkpoint": parquet_metadata(samples).get("checkpoint")})
    return {"problems": problems, "used": used, "responses": len(table)}


def _problems(scores: Path) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """First row and columns of each problem of a scores table, in order."""
    table = read_parquet(scores, list(SCORES))
    columns = {name: table.column(name).to_pylist() for name in SCORES}
    keys = list(zip(columns["dataset"], columns["problem_id"], strict=True))
    start = 0
    for stop in range(1, len(keys) + 1):
        if stop == len(keys) or keys[stop] != keys[start]:
            yield start, {name: values[start:stop] for name, values in columns.items()}
            start = stop


def _tokens(samples: Path, wanted: np.ndarray, problems: Sequence[str], numbers: Sequence[int]) -> pa.Array:
    """token_ids of the `wanted` rows of a samples table, in bounded memory; an error unless they were scored."""
    order = np.argsort(wanted, kind="stable")
    found: list[pa.RecordBatch] = []
    first = 0
    with open_parquet(samples) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["problem_id", "sample", "token_ids"]):
            inside = order[(wanted[order] >= first) & (wanted[order] < first + len(batch))]
            found.append(batch.take(pa.array(wanted[inside] - first)))
            first += len(batch)
    table = pa.Table.from_batches(found)
    table = table.take(pa.array(np.argsort(order, kind="stable"))) if len(table) == len(wanted) else table
    if table.column("problem_id").to_pylist() != list(problems) or table.column("sample").to_pylist() != list(numbers):
        raise SrtError(f"{samples} has other samples than were scored: rerun the score rule")
    return table.column("token_ids").combine_chunks()


@dataclass(frozen=True)
class Preferences:
    """A table of `make_preferences`, as the trainer reads it; `digest` is the file's SHA-256."""

    table: pa.Table
    digest: str

    @staticmethod
    def read(path: Path, reward: str) -> Preferences:
        """Read a table for reward `sft`, `dpo` or `scpo`."""
        table = read_parquet(path, SCHEMA.names)
        kind = parquet_metadata(path).get("spec", {}).get("kind")
        if kind != ("sft" if reward == "sft" else "pairs"):
            raise SrtError(f"{path} has kind '{kind}', which does not fit reward {reward}: rerun the preferences rule")
        return Preferences(table.combine_chunks(), sha256_file(path))

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """The rows of each problem, by its id."""
        found: dict[str, list[int]] = {}
        for row, problem in enumerate(self.table.column("problem_id").to_pylist()):
            found.setdefault(problem, []).append(row)
        return found

    @cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        column = self.table.column("token_ids").combine_chunks()
        return column.offsets.to_numpy(), column.values.to_numpy()

    def tokens(self, row: int) -> np.ndarray:
        """The token ids of a row's response, int32 [T]."""
        offsets, values = self._tokens
        return values[offsets[row] : offsets[row + 1]]

    def answer(self, problem: str) -> str:
        """The majority answer of a problem, which its chosen responses have."""
        return str(self.table.column("answer")[self.rows[problem][0]].as_py())

    def signed_weights(self, rows: Sequence[int]) -> np.ndarray:
        """The weights of these rows, negative for rejected responses: float64 [len(rows)]."""
        part = self.table.select(["chosen", "weight"]).take(pa.array(rows, pa.int64()))
        chosen, weight = (part.column(name).to_numpy() for name in ("chosen", "weight"))
        return np.where(chosen, weight, -weight)
