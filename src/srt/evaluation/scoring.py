"""Grade and vote on raw samples: one table in, two tables out (scores and groups; columns in docs/answers.md).

The samples are read once, in order, in buffers of whole problems, so the memory does not grow with the file. Both
outputs appear together, and only when everything has been graded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srt.answers import Grader, Verdict, Vote
from srt.common.atomic_files import atomic_path
from srt.common.errors import SrtError, nearest
from srt.common.io import METADATA_KEY, canonical_json, open_parquet, parquet_metadata, read_parquet
from srt.evaluation.score_summary import SUMMARISED, Summary, summarise

SCORES_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()), ("problem_id", pa.string()), ("sample", pa.int32()), ("answer", pa.string()),
        ("class_id", pa.int32()), ("correct", pa.bool_()), ("reason", pa.string()),
    ]
)  # fmt: skip
GROUPS_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()), ("problem_id", pa.string()), ("reference", pa.string()), ("n", pa.int32()),
        ("parsed", pa.int32()), ("majority", pa.string()), ("majority_count", pa.int32()),
        ("consistency", pa.float64()), ("consistency_all", pa.float64()), ("pass_rate", pa.float64()),
        ("majority_correct", pa.bool_()), ("distinct", pa.int32()), ("truncated", pa.int32()),
        ("mean_length", pa.float64()), ("reasons", pa.string()),
    ]
)  # fmt: skip
SAMPLE_COLUMNS = ("dataset", "problem_id", "sample", "response", "token_ids", "finish_reason")
PROBLEM_COLUMNS = ("id", "answer", "task")
BUFFER_ROWS = 16384


@dataclass
class Group:
    """The samples of one problem."""

    dataset: str
    problem_id: str
    row: int  # of the first sample, 0-based, for messages
    samples: list[int] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """What grading needs to know of a problem; `reference` is None if the table has no true answer (null)."""

    reference: str | None
    task: str


def read_references(paths: Sequence[str | Path]) -> dict[tuple[str, str], Problem]:
    """Problems by (data set, id). The data set is named in the table's metadata, else by its file name."""
    problems: dict[tuple[str, str], Problem] = {}
    for path in paths:
        frame = read_parquet(path, list(PROBLEM_COLUMNS)).to_pandas()
        dataset = parquet_metadata(path).get("dataset", Path(path).name.split(".")[0])
        for row, (problem_id, answer, task) in enumerate(frame.itertuples(index=False)):
            if not pd.isna(answer) and not str(answer).strip():
                raise SrtError(
                    f"{path}, row {row}: problem '{problem_id}' has an empty answer: give it one, or null for unknown"
                )
            if (dataset, str(problem_id)) in problems:
                raise SrtError(
                    f"{path}, row {row}: problem '{problem_id}' of '{dataset}' was read before: make the ids unique"
                )
            reference = None if pd.isna(answer) else str(answer)
            problems[dataset, str(problem_id)] = Problem(reference, "math" if pd.isna(task) else str(task))
    return problems


def read_samples(path: str | Path, batch_rows: int = 4096) -> Iterator[Group]:
    """The samples of a raw-samples table, problem by problem in their order, in bounded memory.

    Raises `SrtError` for missing columns, a sample without a response, a (problem, sample) that occurs twice, and
    samples of a problem that are not adjacent.
    """
    with open_parquet(path) as file:
        missing = [c for c in SAMPLE_COLUMNS if c not in file.schema_arrow.names]
        if missing:
            raise SrtError(
                f"{path} lacks the column '{missing[0]}'{nearest(missing[0], file.schema_arrow.names)}: it is not "
                "a raw-samples table; use `srt regrade` for tables with other columns"
            )
        seen: set[tuple[str, str]] = set()
        group: Group | None = None
        row = 0
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(SAMPLE_COLUMNS)):
            lengths = pc.list_value_length(batch.column("token_ids")).to_pylist()
            columns = [batch.column(c).to_pylist() for c in SAMPLE_COLUMNS if c != "token_ids"]
            for dataset, problem_id, sample, response, finish, length in zip(*columns, lengths, strict=True):
                if response is None or problem_id is None or sample is None:
                    raise SrtError(f"{path}, row {row}: a sample needs problem_id, sample and response: sample again")
                if group is None or (group.dataset, group.problem_id) != (dataset, problem_id):
                    if group is not None:
                        yield group
                    if (dataset, problem_id) in seen:
                        raise SrtError(
                            f"{path}, row {row}: problem '{problem_id}' of '{dataset}' occurs again: the samples of a "
                            "problem must be adjacent; sort the table or sample again"
                        )
                    seen.add((dataset, problem_id))
                    group = Group(dataset, problem_id, row)
                if sample in group.samples:
                    raise SrtError(
                        f"{path}, row {row}: sample {sample} of problem '{problem_id}' occurs twice: sample again"
                    )
                group.samples.append(sample)
                group.responses.append(response)
                group.lengths.append(length or 0)
                group.finish_reasons.append(finish)
                row += 1
        if group is not None:
            yield group


def _buffers(groups: Iterator[Group], rows: int) -> Iterator[list[Group]]:
    buffer: list[Group] = []
    size = 0
    for group in groups:
        buffer.append(group)
        size += len(group.samples)
        if size >= rows:
            yield buffer
            buffer, size = [], 0
    if buffer:
        yield buffer


def group_row(group: Group, problem: Problem, vote: Vote, verdicts: list[Verdict], majority: Verdict) -> dict[str, Any]:
    """One row of the groups table."""
    known = problem.reference is not None
    n = len(group.samples)
    return {
        "dataset": group.dataset,
        "problem_id": group.problem_id,
        "reference": problem.reference,
        "n": n,
        "parsed": vote.parsed,
        "majority": vote.majority,
        "majority_count": vote.count,
        "consistency": vote.consistency,
        "consistency_all": vote.consistency_all,
        "pass_rate": sum(v.correct for v in verdicts) / n if known else None,
        "majority_correct": majority.correct if known else None,
        "distinct": len({c for c in vote.classes if c >= 0}),
        "truncated": sum(reason == "length" for reason in group.finish_reasons),
        "mean_length": sum(group.lengths) / n,
        "reasons": canonical_json(dict(Counter(_reasons(vote, verdicts)))),
    }


def _reasons(vote: Vote, verdicts: list[Verdict]) -> list[str]:
    """Why a sample has no answer or no verdict; "timeout" outranks "ok"."""
    return [v.reason if v.reason == "timeout" else r for r, v in zip(vote.reasons, verdicts, strict=True)]


def score_groups(
    grader: Grader, groups: list[Group], problems: list[Problem]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the scores and the groups table for a buffer of problems."""
    responses = [group.responses for group in groups]
    references = [problem.reference for problem in problems]
    tasks = [problem.task for problem in problems]
    votes = grader.vote(responses, tasks=tasks, evaluation=True)
    verdicts = grader.verify(responses, references, tasks=tasks)
    majorities = grader.verify_answers([vote.majority for vote in votes], references, tasks=tasks)
    scores: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for group, problem, vote, found, majority in zip(groups, problems, votes, verdicts, majorities, strict=True):
        columns = zip(group.samples, vote.answers, vote.classes, found, _reasons(vote, found), strict=True)
        scores += [
            {
                "dataset": group.dataset, "problem_id": group.problem_id, "sample": sample, "answer": answer,
                "class_id": class_id, "correct": verdict.correct, "reason": reason,
            }
            for sample, answer, class_id, verdict, reason in columns
        ]  # fmt: skip
        rows.append(group_row(group, problem, vote, found, majority))
    return scores, rows


def score_file(
    samples: str | Path,
    problems: Sequence[str | Path],
    scores: str | Path,
    groups: str | Path,
    grader: Grader,
    buffer_rows: int = BUFFER_ROWS,
) -> Summary:
    """Grade a raw-samples table and write its scores and groups tables; on an error nothing is written."""
    known = read_references(problems)
    datasets = sorted({dataset for dataset, _ in known})
    metadata = {
        **parquet_metadata(samples),
        "grading": {"preset": grader.preset, "extractor": grader.extractor},
    }
    kept: list[dict[str, Any]] = []
    with ExitStack() as stack:
        writers = []
        for path, schema in ((scores, SCORES_SCHEMA), (groups, GROUPS_SCHEMA)):
            temporary = stack.enter_context(atomic_path(path))
            schema = schema.with_metadata({METADATA_KEY: canonical_json(metadata).encode()})
            writers.append(stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd")))
        for buffer in _buffers(read_samples(samples), buffer_rows):
            wanted = [_find(known, datasets, group, samples) for group in buffer]
            for writer, rows in zip(writers, score_groups(grader, buffer, wanted), strict=True):
                writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
                if writer is writers[1]:
                    kept += [{column: row[column] for column in SUMMARISED} for row in rows]
        if not kept:
            raise SrtError(f"{samples} has no samples: sample again")
    return summarise(pd.DataFrame(kept), grader.counters)


def _find(known: dict[tuple[str, str], Problem], datasets: list[str], group: Group, path: str | Path) -> Problem:
    problem = known.get((group.dataset, group.problem_id))
    if problem is None:
        hint = (
            f"'{group.dataset}' is in no problem table{nearest(group.dataset, datasets)}; name it with --problems"
            if group.dataset not in datasets
            else f"the table of '{group.dataset}' lacks it; sample again from the present data"
        )
        raise SrtError(f"{path}, row {group.row}: problem '{group.problem_id}' is unknown: {hint}")
    return problem
