"""`rollout_engine: vllm`: training and sampling with a real vLLM, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from srt.cluster import launch
from srt.common.errors import SrtError
from srt.common.io import read_json, read_parquet
from srt.data.prompts import render
from srt.evaluation.engine_probe import vllm_probe
from srt.models.base_models import make
from srt.models.checkpoint import load_model
from srt.models.probe_record import record_path
from srt.packing.logprobs import packed, response_logprobs
from srt.packing.pack import pack
from srt.rollout.vllm_models import check_trainable_beside_vllm
from support import ROOT
from support.families import FAMILIES
from support.specs import TINY_BASE, train_spec
from support.training import script, whole_run

pytestmark = pytest.mark.vllm


def run(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_steps_of_training_with_vllm_rollouts(tmp_path: Path, tiny_base: Path, sums: Path) -> None:
    run(*script(whole_run(tmp_path, tiny_base, train_spec(rollout_engine="vllm")), sums))
    frame = read_parquet(tmp_path / "metrics.parquet").to_pandas()
    assert frame["step"].tolist() == [1, 2]
    assert frame["kl"].iloc[0] == 0 and frame["kl"].iloc[1] > 0
    assert np.isfinite(frame[["loss", "grad_norm", "entropy"]].to_numpy()).all()
    assert max(read_json(record_path(tiny_base))["passed"][vllm_probe("float32")].values()) < 1e-4


def test_models_that_vllm_cannot_take_beside_a_trainer_are_sentences() -> None:
    config = FAMILIES["olmo2"].config()
    config.architectures = ["Olmo2ForCausalLM"]
    with pytest.raises(SrtError, match="base: vLLM cannot sample for the training of model type olmo2: it has no code"):
        check_trainable_beside_vllm("base", config)
    if not torch.cuda.is_available():
        with pytest.raises(SrtError, match=r"qwen3_moe: on a CPU .*: set train.rollout_engine to transformers"):
            check_trainable_beside_vllm("base", FAMILIES["qwen3_moe"].config())
    check_trainable_beside_vllm("base", FAMILIES["qwen3_4b"].config())


def test_two_ranks_train_with_one_engine(tmp_path: Path, sums: Path) -> None:
    """`rollout_tensor_parallel: 2`: both ranks get rollouts of the weights that they train."""
    make("two_heads", TINY_BASE | {"hidden_size": 64, "heads": 2, "kv_heads": 2, "steps": 30}, tmp_path / "base")
    given = whole_run(tmp_path, tmp_path / "base", train_spec(rollout_engine="vllm"), rollout_tensor_parallel=2)
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    command = launch.torchrun(1, 2, "", "", script(given, sums))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=environment | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    frame = read_parquet(tmp_path / "metrics.parquet").to_pandas()
    assert frame["step"].tolist() == [1, 2] and frame["kl"].iloc[1] > 0
    assert frame["mismatch_max"].lt(1e-3).all() and frame["skipped"].eq(0).all()


def test_samples_of_vllm_carry_the_log_probs_of_the_checkpoint(tmp_path: Path, tiny_base: Path, sums: Path) -> None:
    suffix = train_spec()["prompt_suffix"]
    spec = {
        "n": 4, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 40, "max_new_tokens": 24, "engine": "vllm",
        "dtype": "float32", "seed": 0, "threads": 1, "prompt_suffix": suffix,
    }  # fmt: skip
    out = tmp_path / "a.samples.parquet"
    run(str(ROOT / "scripts/sample.py"), "--spec", json.dumps(spec), "--checkpoint", str(tiny_base),
        "--problems", str(sums), "--out", str(out))  # fmt: skip
    rows = read_parquet(out).to_pandas()
    problems = read_parquet(sums).to_pandas().set_index("id")["problem"]
    assert len(rows) == 4 * len(problems)
    model, tokenizer, _ = load_model(tiny_base, "float32")
    prompts = [render(tokenizer, problems[i], suffix) for i in rows["problem_id"]]
    p = pack(prompts, [np.asarray(t) for t in rows["token_ids"]], [i // 4 for i in range(len(rows))], range(len(rows)))
    with torch.no_grad(), packed(model):
        expected, _ = response_logprobs(model, p, 1.0)
    given = np.concatenate(rows["logprobs"].to_list())
    assert np.abs(given - expected[p.mask].numpy()).max() < 1e-4
