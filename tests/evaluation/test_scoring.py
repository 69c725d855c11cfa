"""Raw samples in, scores and groups out; messages; the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet, write_parquet
from srt.evaluation import scoring
from srt.evaluation.imported_rollouts import ImportedVerdicts, grade_imported, parse_mapping
from support.imported_rollouts import ROLLOUTS


def samples_frame(rows):
    return pd.DataFrame(
        [
            {
                "dataset": "toy",
                "problem_id": pid,
                "sample": np.int32(i),
                "response": text,
                "token_ids": [1] * (i + 1),
                "logprobs": [0.0] * (i + 1),
                "finish_reason": finish,
                "seed": 0,
            }
            for pid, i, text, finish in rows
        ]
    )


ROWS = [
    ("a", 0, r"\boxed{1/2}", "stop"),
    ("a", 1, r"\boxed{0.5}", "stop"),
    ("a", 2, r"\boxed{3}", "stop"),
    ("a", 3, "none", "length"),
    ("b", 0, r"\boxed{80}", "stop"),
    ("b", 1, r"\boxed{81}", "stop"),
    ("b", 2, r"\boxed{9}", "stop"),
    ("b", 3, r"\boxed{9}", "stop"),
    ("c", 0, "x", "length"),
    ("c", 1, r"\boxed{", "length"),
]
PROBLEMS = pd.DataFrame(
    {"id": ["a", "b", "c"], "problem": ["?"] * 3, "answer": [r"\frac12", "080 or 081", "4"], "task": "math"}
)


@pytest.fixture
def files(tmp_path):
    write_parquet(tmp_path / "s.parquet", samples_frame(ROWS), {"checkpoint": "abc", "spec": {"n": 4}})
    write_parquet(tmp_path / "toy.parquet", PROBLEMS, {"dataset": "toy", "fingerprint": "f"})
    return tmp_path


def score(folder, samples="s.parquet", buffer_rows=scoring.BUFFER_ROWS, **kwargs):
    with Grader(**kwargs) as grader:
        return scoring.score_file(
            folder / samples,
            [folder / "toy.parquet"],
            folder / "o.scores.parquet",
            folder / "o.groups.parquet",
            grader,
            buffer_rows,
        )


def test_tables(files):
    summary = score(files)
    scores = read_parquet(files / "o.scores.parquet").to_pandas()
    groups = read_parquet(files / "o.groups.parquet").to_pandas().set_index("problem_id")
    assert read_parquet(files / "o.scores.parquet").schema.names == scoring.SCORES_SCHEMA.names
    assert read_parquet(files / "o.groups.parquet").schema.remove_metadata() == scoring.GROUPS_SCHEMA
    assert scores["correct"].tolist() == [True, True, False, False, True, True, False, False, False, False]
    assert scores["reason"].tolist() == ["ok"] * 3 + ["no_box"] + ["ok"] * 4 + ["no_box", "unclosed_box"]
    assert scores["class_id"].tolist()[:4] == [0, 0, 1, -1]
    a, b, c = groups.loc["a"], groups.loc["b"], groups.loc["c"]
    assert (a["n"], a["parsed"], a["majority_count"], a["distinct"], a["truncated"]) == (4, 3, 2, 2, 1)
    assert (a["consistency"], a["consistency_all"], a["pass_rate"]) == (pytest.approx(2 / 3), 0.5, 0.5)
    assert a["majority_correct"] and a["mean_length"] == 2.5 and json.loads(a["reasons"]) == {"no_box": 1, "ok": 3}
    assert (b["pass_rate"], b["majority"], bool(b["majority_correct"])) == (0.5, "9", False)
    assert (c["parsed"], c["consistency"], bool(c["majority_correct"])) == (0, 0.0, False) and pd.isna(c["majority"])
    row = summary.datasets.iloc[0]
    assert (row["avg"], row["maj"], row["problems"], row["samples"]) == (
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        3,
        10,
    )
    assert row["best"] == pytest.approx(2 / 3) and summary.reasons == {"no_box": 2, "ok": 7, "unclosed_box": 1}
    metadata = parquet_metadata(files / "o.groups.parquet")
    assert metadata["checkpoint"] == "abc" and metadata["grading"] == {"preset": "clean", "extractor": "boxed"}


def test_buffers_change_nothing_and_reruns_are_bytewise_equal(files):
    score(files)
    whole = [read_parquet(files / name).to_pylist() for name in ("o.scores.parquet", "o.groups.parquet")]
    first = (files / "o.groups.parquet").read_bytes()
    score(files)
    assert (files / "o.groups.parquet").read_bytes() == first
    score(files, buffer_rows=1)
    assert [read_parquet(files / name).to_pylist() for name in ("o.scores.parquet", "o.groups.parquet")] == whole


def test_groups_cross_batches(files):
    groups = list(scoring.read_samples(files / "s.parquet", batch_rows=3))
    assert [(g.problem_id, g.samples) for g in groups] == [("a", [0, 1, 2, 3]), ("b", [0, 1, 2, 3]), ("c", [0, 1])]


def test_authors_preset(files):
    score(files, preset="authors")
    groups = read_parquet(files / "o.groups.parquet").to_pandas()
    assert groups["majority"].tolist()[:2] == ["1/2", "9"] and groups["majority_count"].tolist() == [1, 2, 0]
    assert groups["pass_rate"][0] == 0.5 and bool(groups["majority_correct"][0])


def test_unknown_references_give_unknown_rates(files):
    write_parquet(files / "toy.parquet", PROBLEMS.assign(answer=[None, "9", None]), {"dataset": "toy"})
    summary = score(files)
    groups = read_parquet(files / "o.groups.parquet").to_pandas()
    assert groups["pass_rate"].isna().tolist() == [True, False, True] and groups["majority"][0] is not None
    assert summary.datasets["avg"][0] == 0.5 and summary.datasets["maj"][0] == 1.0


BAD = {
    "unknown problem": (lambda s, p: (s.replace({"problem_id": {"b": "zz"}}), p), r"row 4: problem 'zz' is unknown"),
    "unknown data set": (lambda s, p: (s.assign(dataset="tay"), p), r"row 0.*did you mean 'toy'"),
    "twice": (
        lambda s, p: (s.assign(sample=[0, 1, 1, 3, 0, 1, 2, 3, 0, 1]), p),
        r"row 2: sample 1 of problem 'a' occurs twice",
    ),
    "not adjacent": (
        lambda s, p: (pd.concat([s.iloc[4:], s.iloc[:4], s.iloc[8:]]), p),
        r"row 10: problem 'c'.*occurs again",
    ),
    "columns": (lambda s, p: (s.rename(columns={"response": "respons"}), p), r"lacks the column 'response'.*respons"),
    "null response": (lambda s, p: (s.assign(response=[None, *s["response"][1:]]), p), r"row 0: a sample needs"),
    "no samples": (
        lambda s, p: (
            s.iloc[:0].astype({"dataset": "str", "problem_id": "str", "response": "str", "finish_reason": "str"}),
            p,
        ),
        r".",
    ),
    "empty answer": (
        lambda s, p: (s, p.assign(answer=["1", " ", "3"])),
        r"toy.parquet, row 1: problem 'b' has an empty answer",
    ),
    "ids": (lambda s, p: (s, p.assign(id="a")), r"row 1: problem 'a' of 'toy' was read before"),
    "problem columns": (lambda s, p: (s, p.drop(columns="task")), r"lacks the column 'task'"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_sentence_and_writes_nothing(tmp_path, name):
    change, message = BAD[name]
    samples, problems = change(samples_frame(ROWS), PROBLEMS)
    if name == "no samples":
        schema = read_parquet(write(tmp_path / "s.parquet", samples_frame(ROWS))).schema
        write_parquet(tmp_path / "s.parquet", schema.empty_table())
    else:
        write_parquet(tmp_path / "s.parquet", samples)
    write_parquet(tmp_path / "toy.parquet", problems, {"dataset": "toy"})
    with pytest.raises(SrtError, match=message):
        score(tmp_path, buffer_rows=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.parquet", "toy.parquet"]


def write(path, frame):
    write_parquet(path, frame)
    return path


def test_interrupted_scoring_leaves_the_old_files(files, monkeypatch):
    score(files)
    old = (files / "o.scores.parquet").read_bytes()
    calls = []

    def stop(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    real = scoring.score_groups
    monkeypatch.setattr(scoring, "score_groups", stop)
    with pytest.raises(KeyboardInterrupt):
        score(files, buffer_rows=1)
    assert (files / "o.scores.parquet").read_bytes() == old
    assert not [p for p in files.iterdir() if p.name.endswith(".tmp")]


def test_command_line(files, root):
    script = [sys.executable, str(root / "scripts" / "score.py")]
    arguments = [
        "--samples",
        "s.parquet",
        "--problems",
        "toy.parquet",
        "--scores",
        "o.scores.parquet",
        "--groups",
        "o.groups.parquet",
    ]
    done = subprocess.run([*script, *arguments], cwd=files, capture_output=True, text=True, check=True)
    assert "avg@4 33.3%" in done.stdout and "maj@4" in done.stdout and "no_box 2" in done.stdout
    assert subprocess.run([*script, "--help"], capture_output=True, check=True).stdout
    wrong = subprocess.run([*script, *arguments[:-2]], cwd=files, capture_output=True, text=True)
    assert wrong.returncode == 2 and "the following arguments are required: --groups" in wrong.stderr
    wrong = subprocess.run([*script, *arguments, "--preset", "cleen"], cwd=files, capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean 'clean'" in wrong.stderr


def test_imported_rollouts(tmp_path):
    write_parquet(tmp_path / "r.parquet", ROLLOUTS)
    with pytest.raises(SrtError, match="--map reference="):
        grade_imported(tmp_path / "r.parquet", parse_mapping([]), Grader())
    with pytest.raises(SrtError, match="our=theirs"):
        parse_mapping(["refrence=truth"])
    write_parquet(tmp_path / "r.parquet", ROLLOUTS.assign(truth=["5", "", None]))
    result = grade_imported(tmp_path / "r.parquet", parse_mapping(["reference=truth"]), Grader())
    assert result.left_out == 2 and list(result.table["row"]) == [0]
    write_parquet(tmp_path / "r.parquet", ROLLOUTS.assign(truth=["", " ", None]))
    with pytest.raises(SrtError, match="no row with a reference"):
        grade_imported(tmp_path / "r.parquet", parse_mapping(["reference=truth"]), Grader())


def test_verdicts_differ_only_where_upstream_has_one():
    table = pd.DataFrame({"set": "a", "by": ["m", "m", "n"], "correct": [True, False, True]}, index=[0, 1, 0])
    judged = ImportedVerdicts(table.assign(upstream=[False, None, True]))
    assert judged.accuracies()["differences"].tolist() == [1, 0] and len(judged.differences()) == 1
    assert ImportedVerdicts(table.assign(upstream=None)).accuracies()["differences"].tolist() == [0, 0]


def test_real_rollouts_agree_with_upstream(shared_data):
    path = shared_data / "rollouts_skythought.parquet"
    if not path.exists():
        pytest.skip("rollouts_skythought.parquet is absent")
    with Grader(extractor="boxed_or_last_number") as grader:
        result = grade_imported(path, parse_mapping([]), grader)
    table = result.accuracies()
    assert len(result.table) == 1750 and len(result.differences()) <= 5
    assert abs(result.table["correct"].mean() - result.table["upstream"].astype(float).mean()) < 0.01
    assert (table["points"].abs() < 1).mean() > 0.95  # one response of 40 is 2.5 points
