"""Stored responses: which are chosen, by votes alone; their table; what the trainer receives."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet, write_parquet
from srt.labels.preferences import Preferences, choose, make_preferences
from srt.training.training_set import read_training_set

PAIRS = {"kind": "pairs", "seed": 1, "margin": 2}
SFT = {"kind": "sft", "seed": 1, "threshold": 0.0, "responses": None}
# By problem: the class of each of 8 samples. a: 5 votes against 1 and 1; b: 3 against 2 and 2, one without an answer;
# c: unanimous; d: no answer at all; e: 6 against 2.
CLASSES = {
    "a": [1, 0, 0, -1, 0, 2, 0, 0],
    "b": [0, 1, 0, 2, 1, -1, 0, 2],
    "c": [0] * 8,
    "d": [-1] * 8,
    "e": [0, 0, 1, 0, 0, 1, 0, 0],
}


def pick(problem: str, **changes: Any) -> list[tuple[int, bool, int, float]]:
    spec = {**(SFT if changes.get("kind") == "sft" else PAIRS), **changes}
    return choose(CLASSES[problem], range(8), problem, spec)


def test_a_pair_is_an_answer_with_most_votes_and_one_with_fewest():
    best, worst = pick("a")
    assert best[0] in (1, 2, 4, 6, 7) and worst[0] in (0, 5)
    assert best[1:] == (True, 5, 0.5) and worst[1:] == (False, 1, 0.5)  # w = (5 - 1) / 8
    best, worst = pick("e")
    assert worst[0] in (2, 5) and best[2:] == (6, 0.5) and worst[2:] == (2, 0.5)


def test_pairs_that_are_not_apart_are_left_out():
    assert pick("b") == [] and pick("b", margin=1) == [] and len(pick("b", margin=0)) == 2
    assert len(pick("e", margin=3)) == 2 and pick("e", margin=4) == []  # above the margin, not equal to it
    assert pick("c", margin=0) == [] and pick("d", margin=0) == []  # no response to reject, or none to choose


def test_draws_depend_on_the_seed_and_reach_every_response():
    seen = {(seed, pick("a", seed=seed)[0][0], pick("a", seed=seed)[1][0]) for seed in range(200)}
    assert {best for _, best, _ in seen} == {1, 2, 4, 6, 7} and {worst for _, _, worst in seen} == {0, 5}
    assert pick("a", seed=3) == pick("a", seed=3)
    # seeds are independent: all ten pairs occur
    assert {seen_pair[1:] for seen_pair in seen} == set(itertools.product((1, 2, 4, 6, 7), (0, 5)))


def test_sft_takes_responses_of_the_majority():
    assert pick("a", kind="sft") == [(i, True, 5, 1.0) for i in (1, 2, 4, 6, 7)]
    three = pick("a", kind="sft", responses=3)
    assert len(three) == 3 and {i for i, *_ in three} < {1, 2, 4, 6, 7} and three == sorted(three)
    assert pick("a", kind="sft", responses=99) == pick("a", kind="sft")
    assert len(pick("a", kind="sft", threshold=5 / 8)) == 5 and pick("a", kind="sft", threshold=0.63) == []
    assert pick("d", kind="sft") == [] and len(pick("c", kind="sft", threshold=1.0)) == 8


# -- the table --------------------------------------------------------------------------------------------------------


def tables(folder: Path, **more: list[Any]) -> tuple[Path, Path]:
    """Raw samples, whose token ids name problem and sample, and their scores."""
    keys = [(p, i) for p in CLASSES for i in range(8)]
    samples = pa.table(
        {
            "dataset": ["sums"] * 40,
            "problem_id": [p for p, _ in keys],
            "sample": pa.array([i for _, i in keys], pa.int32()),
            "token_ids": pa.array([[ord(p), i, *range(i)] for p, i in keys], pa.list_(pa.int32())),
        }
    )
    classes = [CLASSES[p][i] for p, i in keys]
    scores = pd.DataFrame(
        {
            "dataset": "sums",
            "problem_id": [p for p, _ in keys],
            "sample": [i for _, i in keys],
            "answer": [None if c < 0 else str(c) for c in classes],
            "class_id": classes,
            **more,
        }
    )
    write_parquet(folder / "x.samples.parquet", samples, {"checkpoint": "base"})
    write_parquet(folder / "x.scores.parquet", scores)
    return folder / "x.samples.parquet", folder / "x.scores.parquet"


def made(folder: Path, spec: dict[str, Any], name: str = "out.parquet", **more: list[Any]) -> Path:
    make_preferences(*tables(folder, **more), spec, folder / name)
    return folder / name


def test_the_table_holds_the_tokens_of_the_right_samples(tmp_path):
    out = made(tmp_path, PAIRS)
    frame = read_parquet(out).to_pandas()
    assert frame["problem_id"].tolist() == ["a", "a", "e", "e"] and frame["chosen"].tolist() == [True, False] * 2
    for row in frame.itertuples():
        assert row.token_ids.tolist() == [ord(row.problem_id), row.sample, *range(row.sample)]
        assert row.answer == str(CLASSES[row.problem_id][row.sample])
    assert frame["votes"].tolist() == [5, 1, 6, 2] and frame["weight"].tolist() == [0.5] * 4
    assert parquet_metadata(out) == {"spec": PAIRS, "checkpoint": "base"}


def test_counts_for_the_log(tmp_path):
    counts = make_preferences(*tables(tmp_path), {**SFT, "threshold": 0.5}, tmp_path / "o.parquet")
    assert counts == {"problems": 5, "used": 3, "responses": 5 + 8 + 6}


def test_many_problems_in_several_batches(tmp_path):
    """With more rows than one read batch holds, tokens still belong to their samples, in order."""
    rows = 9000
    problems = [f"p{i // 8}" for i in range(rows)]
    table = {
        "dataset": ["d"] * rows,
        "problem_id": problems,
        "sample": pa.array([i % 8 for i in range(rows)], pa.int32()),
    }
    tokens = pa.array([[i] for i in range(rows)], pa.list_(pa.int32()))
    write_parquet(tmp_path / "s.parquet", pa.table({**table, "token_ids": tokens}))
    classes = [CLASSES["a"][i % 8] for i in range(rows)]
    write_parquet(tmp_path / "c.parquet", pa.table({**table, "answer": list(map(str, classes)), "class_id": classes}))
    make_preferences(tmp_path / "s.parquet", tmp_path / "c.parquet", PAIRS, tmp_path / "o.parquet")
    frame = read_parquet(tmp_path / "o.parquet").to_pandas()
    assert len(frame) == 2 * rows // 8
    expected = [8 * int(p[1:]) + s for p, s in zip(frame["problem_id"], frame["sample"], strict=True)]
    assert [ids[0] for ids in frame["token_ids"]] == expected


def test_true_answers_are_out_of_reach(tmp_path):
    """The bytes are the same with any verdicts, and without their column."""
    rows = 40
    texts = {
        made(tmp_path, PAIRS, f"{i}.parquet", **more).read_bytes()
        for i, more in enumerate([{}, {"correct": [True] * rows}, {"correct": [False] * rows}])
    }
    assert len(texts) == 1


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(SrtError, match=r"lower the run's preference.threshold or preference.margin"):
        made(tmp_path, {**PAIRS, "margin": 8})
    with pytest.raises(SrtError, match="unknown kind 'dpo'"):
        made(tmp_path, {**PAIRS, "kind": "dpo"})
    samples, scores = tables(tmp_path)
    table = read_parquet(samples)
    write_parquet(samples, table.slice(1))  # sampled again, but not scored again
    with pytest.raises(SrtError, match="has other samples than were scored"):
        make_preferences(samples, scores, PAIRS, tmp_path / "out.parquet")


# -- what the trainer is given ----------------------------------------------------------------------------------------


def test_the_trainer_reads_responses_and_signed_weights(tmp_path):
    stored = Preferences.read(made(tmp_path, PAIRS), "scpo")
    assert stored.rows == {"a": [0, 1], "e": [2, 3]} and stored.answer("e") == "0"
    assert stored.signed_weights([2, 3]).tolist() == [0.5, -0.5]
    frame = read_parquet(tmp_path / "out.parquet").to_pandas()
    for row, ids in enumerate(frame["token_ids"]):
        assert np.array_equal(stored.tokens(row), ids) and stored.tokens(row).dtype == np.int32
    sft = Preferences.read(made(tmp_path, SFT, "sft.parquet"), "sft")
    assert sft.signed_weights(sft.rows["b"]).tolist() == [1.0] * 3
    with pytest.raises(SrtError, match="has kind 'sft', which does not fit reward dpo"):
        Preferences.read(tmp_path / "sft.parquet", "dpo")


def test_only_problems_with_responses_are_trained_on(tmp_path, sums):
    ids = read_parquet(sums, ["id"]).column("id").to_pylist()
    frame = read_parquet(made(tmp_path, PAIRS)).to_pandas()
    frame["problem_id"] = [ids[3]] * 2 + [ids[5]] * 2
    table = pa.Table.from_pandas(frame, preserve_index=False)
    write_parquet(tmp_path / "p.parquet", table, {"spec": PAIRS})
    data, truth = read_training_set(sums, "dpo", preferences=tmp_path / "p.parquet")
    assert [i for i in range(len(ids)) if data.has_label(i)] == [3, 5] and data.labels is None and truth
    with pytest.raises(SrtError, match="reward dpo needs preferences"):
        read_training_set(sums, "dpo")
    with pytest.raises(SrtError, match="reward majority samples its own responses"):
        read_training_set(sums, "majority", preferences=tmp_path / "p.parquet")


def test_the_script(tmp_path):
    from support.scripts import run

    samples, scores = tables(tmp_path)
    done = run("preferences.py", samples=samples, scores=scores, spec=json.dumps(PAIRS), out=tmp_path / "o.parquet")
    assert done.returncode == 0, done.stderr
    assert "4 responses to 2 of 5 problems" in done.stdout
    assert (tmp_path / "o.parquet").read_bytes() == made(tmp_path, PAIRS).read_bytes()
