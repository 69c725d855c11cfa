"""Raw samples: the documented table, its metadata, the same bytes twice."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet
from srt.config.models import BOXED_SUFFIX
from srt.data.problem_table import make_table, write_problems
from srt.data.prompts import render
from srt.evaluation.sampling import SCHEMA, SPEC, sample
from srt.models.checkpoint import fingerprint, load_model
from srt.rollout import sample_key

VALUES: dict[str, Any] = {
    "n": 4, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 40, "max_new_tokens": 20, "engine": "transformers",
    "dtype": "float32", "seed": 5, "threads": 1, "prompt_suffix": BOXED_SUFFIX,
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A second data set; its middle prompt is too long."""
    rows = [
        {"id": f"q{i}", "problem": text, "answer": "1", "source": "s", "subject": "t", "level": "l", "task": "math"}
        for i, text in enumerate(["2 + 2 =", "long " * 30, "3 + 3 ="])
    ]
    out = tmp_path_factory.mktemp("odd") / "odd.parquet"
    write_problems(out, make_table(rows), "odd")
    return out


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, tiny_base, sums, odd) -> Path:
    out = tmp_path_factory.mktemp("samples") / "x.samples.parquet"
    assert sample(VALUES, tiny_base, [sums, odd], out) == {"samples": 26 * 4, "too_long": 1}
    return out


def test_the_spec_is_what_the_script_asks_for():
    assert set(SPEC) == set(VALUES)


def test_schema_order_and_metadata(drawn, tiny_base, sums, odd):
    table = read_parquet(drawn)
    assert table.schema.remove_metadata() == SCHEMA
    frame = table.to_pandas()
    ids = read_parquet(sums)["id"].to_pylist()
    expected = [("sums", i, s) for i in ids for s in range(4)] + [("odd", i, s) for i in ("q0", "q2") for s in range(4)]
    assert list(zip(frame["dataset"], frame["problem_id"], frame["sample"], strict=True)) == expected
    assert parquet_metadata(drawn) == {
        "checkpoint": fingerprint(tiny_base),
        "data": {"sums": parquet_metadata(sums)["fingerprint"], "odd": parquet_metadata(odd)["fingerprint"]},
        "spec": VALUES,
        "too_long": 1,
    }


def test_rows_are_what_the_model_drew(drawn, tiny_base, sums):
    """Text, tokens, log-probs, finish reason and seed of a row belong to the same sample."""
    model, tokenizer, (eos,) = load_model(tiny_base, "float32")
    problem = dict(zip(*(read_parquet(sums)[c].to_pylist() for c in ("id", "problem")), strict=True))
    frame = read_parquet(drawn).to_pandas()
    assert set(frame["finish_reason"]) == {"stop", "length"} and frame["seed"].is_unique
    for row in frame[frame["dataset"] == "sums"].iloc[::7].itertuples():
        tokens = row.token_ids
        assert row.response == tokenizer.decode(tokens, skip_special_tokens=True)
        assert (tokens[-1] == eos) == (row.finish_reason == "stop") and len(tokens) <= 20
        prompt = render(tokenizer, problem[row.problem_id], BOXED_SUFFIX)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens.astype(np.int64))]
        np.testing.assert_allclose(row.logprobs, logp.numpy(), atol=1e-5, rtol=0)
        assert np.uint64(np.int64(row.seed)) == sample_key(5, f"sums/{row.problem_id}", row.sample)


def test_twice_the_same_bytes_and_a_subset_the_same_rows(drawn, tmp_path, tiny_base, sums, odd):
    sample(VALUES, tiny_base, [sums, odd], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == drawn.read_bytes()
    sample(VALUES | {"n": 2}, tiny_base, [odd], tmp_path / "part")
    part, whole = read_parquet(tmp_path / "part").to_pandas(), read_parquet(drawn).to_pandas()
    whole = whole[(whole["dataset"] == "odd") & (whole["sample"] < 2)].reset_index(drop=True)
    for column in ("problem_id", "sample", "response", "finish_reason", "seed"):
        assert part[column].tolist() == whole[column].tolist()
    sample(VALUES | {"seed": 6}, tiny_base, [odd], tmp_path / "other")
    assert read_parquet(tmp_path / "other")["response"].to_pylist() != whole["response"].tolist()


def test_greedy_and_nucleus_sampling_run(tmp_path, tiny_base, odd):
    sample(VALUES | {"temperature": 0.0}, tiny_base, [odd], tmp_path / "greedy")
    frame = read_parquet(tmp_path / "greedy").to_pandas()
    assert frame.groupby("problem_id")["response"].nunique().eq(1).all()
    sample(VALUES | {"top_p": 0.5}, tiny_base, [odd], tmp_path / "nucleus")
    assert read_parquet(tmp_path / "nucleus").num_rows == 8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"engine": "vlm"}, "unknown engine 'vlm' .*vllm"),
        ({"dtype": "float31"}, "unknown dtype 'float31' .*float32"),
        ({"max_prompt_tokens": 2}, "every one of the 3 prompts is longer than max_prompt_tokens=2"),
    ],
)
def test_wrong_specs_are_a_sentence_and_leave_nothing(tmp_path, tiny_base, odd, change, expected):
    with pytest.raises(SrtError, match=expected):
        sample(VALUES | change, tiny_base, [odd], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_a_gpu_samples_on_the_cpu_of_a_machine_that_has_one(tmp_path, tiny_base, odd, monkeypatch):
    """CUDA is faked by what its driver does: it sees the devices that the environment shows."""
    import sample as script

    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    out = tmp_path / "x.parquet"
    words = ["--spec", json.dumps(VALUES | {"n": 2}), "--checkpoint", str(tiny_base), "--problems", str(odd)]
    monkeypatch.setattr(sys, "argv", ["sample.py", *words, "--out", str(out), "--gpus", "0"])
    script.main()
    assert read_parquet(out).num_rows == 4
