"""`srt export --format lm-eval`: the files of lm-evaluation-harness 0.4.13, read by its own code if it is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet, write_parquet
from srt.results import Results
from srt.results.lm_eval import export
from support.commands import srt

# The keys of `SampleResult` in lm_eval.result_schema 0.4.13, and the metric.
SAMPLE = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash", "exact_match",
}  # fmt: skip


@pytest.fixture
def micro(micro_run, tmp_path) -> Results:
    """A copy of one evaluation of the micro DAG; the first question's responses are all right."""
    source, folder = micro_run / "results/micro", tmp_path / "micro"
    for name in ("data/sums_test", *(f"eval/base/micro/tests.{kind}" for kind in ("samples", "scores", "groups"))):
        path = source / f"{name}.parquet"
        table, metadata = read_parquet(path).to_pandas(), parquet_metadata(path)
        if name.endswith("scores"):
            table.loc[:7, ["answer", "correct"]] = ("12", True)
        elif name.endswith("groups"):
            table.loc[0, ["majority", "pass_rate", "majority_correct"]] = ("12", 1.0, True)
        write_parquet(folder / f"{name}.parquet", table, metadata)
    return Results(folder)


def read(files: list[Path]) -> tuple[list[dict], dict]:
    samples, results = files
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return rows, json.loads(results.read_text(encoding="utf-8"))


def test_samples_and_results_hold_what_was_stored(micro, tmp_path):
    rows, results = read(export(micro, "base/micro", "tests", tmp_path / "out"))
    groups = micro.groups("base/micro", "tests")
    assert len(rows) == 2 * len(groups) == 24 and all(set(row) == SAMPLE for row in rows)
    each, vote = rows[:2]
    assert (each["filter"], vote["filter"], each["doc_id"], rows[2]["doc_id"]) == ("avg@8", "maj@8", 0, 1)
    assert each["resps"] == vote["resps"] == [micro.samples("base/micro", "tests")["response"][:8].tolist()]
    assert each["filtered_resps"] == [["12"] * 8] and vote["filtered_resps"] == ["12"]
    assert each["target"] == groups["reference"][0] == each["doc"]["answer"]
    prompt = each["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.startswith(each["doc"]["problem"]) and prompt.endswith("\\boxed{}.")
    assert each["prompt_hash"] == hashlib.sha256(prompt.encode()).hexdigest()
    told = results["results"]["sums_test"]
    for kind, column in (("avg@8", "pass_rate"), ("maj@8", "majority_correct")):
        values = groups[column].astype(float)
        assert told[f"exact_match,{kind}"] == pytest.approx(values.mean()) and values.mean() > 0
        assert told[f"exact_match_stderr,{kind}"] == pytest.approx(values.sem())
        assert [row["exact_match"] for row in rows if row["filter"] == kind] == values.tolist()
    assert results["n-samples"] == {"sums_test": {"original": 12, "effective": 12}}
    assert results["config"]["gen_kwargs"]["max_gen_toks"] == 24
    assert np.isfinite(results["date"])


def test_a_second_export_writes_the_same_files(micro, tmp_path):
    first = {path: path.read_bytes() for path in export(micro, "base/micro", "tests", tmp_path / "out")}
    again = export(micro, "base/micro", "tests", tmp_path / "out")
    assert {path: path.read_bytes() for path in again} == first
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == sorted(first)


def test_data_without_true_answers_is_refused(micro, tmp_path):
    path = micro.folder / "eval/base/micro/tests.groups.parquet"
    frame = read_parquet(path).to_pandas().assign(reference=None, pass_rate=None, majority_correct=None)
    write_parquet(path, frame, parquet_metadata(path))
    with pytest.raises(SrtError, match="'sums_test' has no true answers"):
        export(micro, "base/micro", "tests", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_all_checkpoints_or_those_named(micro_run, tmp_path):
    words = ["export", "--format", "lm-eval", "--results", micro_run / "results/micro", "--out", tmp_path / "out"]
    assert len(srt(*words, "--suite", "tests").stdout.splitlines()) == 2 * 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "base__micro", "gt-s1__step-2", "gt-s1__step-4", "offline_easy-s1__step-2",
    }  # fmt: skip
    assert len(srt(*words, "--suite", "sums", "base/micro").stdout.splitlines()) == 2
    said = srt(*words, "--suite", "test", code=2).stderr
    assert "has no evaluation on 'test' (did you mean 'tests'?): make it with snakemake all_eval" in said
    said = srt(*words, "--suite", "tests", "gt-s1/step-3", code=2).stderr
    assert "gt-s1/step-3/tests.samples.parquet does not exist (did you mean" in said


@pytest.mark.lm_eval
def test_the_harness_reads_them_with_its_own_code(micro, tmp_path):
    from lm_eval import result_schema, utils

    files = export(micro, "base/micro", "tests", tmp_path / "out")
    rows, results = read(files)
    names = [str(path) for path in files]
    assert utils.get_sample_results_filenames(names) == names[:1] and utils.get_results_filenames(names) == names[1:]
    assert utils.get_file_task_name(files[0].name) == "sums_test"
    assert set(rows[0]) - {"exact_match"} == set(result_schema.SampleResult.__annotations__)
    assert set(results) <= set(result_schema.EvalResults.__annotations__)
    assert rows[0]["doc_hash"] == utils.hash_string(json.dumps(rows[0]["doc"], indent=2, ensure_ascii=False))
    table = utils.make_table(results)
    assert "|sums_test|" in table.replace(" ", "") and "|avg@8|" in table.replace(" ", "")
