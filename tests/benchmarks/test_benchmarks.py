"""The benchmarks in their quick mode: they run and their two sides agree; no time is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.requirements import REQUIREMENTS

ALONE = [] if REQUIREMENTS["trl"].there() else ["--no-trl"]


def quick(name: str, out: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark's quick mode with its result in `out`."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--quick", "--threads", "1", "--out", str(out)]
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["machine"]["versions"]["torch"]
    result["last_line"] = run.stdout.splitlines()[-1]
    return result


@pytest.mark.slow
@pytest.mark.long
def test_update(tmp_path: Path) -> None:
    # the code of `--device cuda` as well, which differs in dtype and shape only
    result = quick("update.py", tmp_path / "update.json", *ALONE)
    case = result["cases"]["quick"]
    assert case["against"] == ("padded" if ALONE else "trl")
    assert 0 < case["gradients_differ_by"]["ours"] <= 1e-5
    ours = case["sides"]["ours"]
    assert case["real_tokens"] > ours["tokens_processed"] > 0 and 0 < ours["share_of_limit"] < 1
    assert float(result["last_line"].removeprefix("ratio: ")) > 0


@pytest.mark.slow
@pytest.mark.long
def test_rollout(tmp_path: Path) -> None:
    result = quick("rollout.py", tmp_path / "rollout.json", "--no-vllm")
    for track in ("forced", "stopping"):
        assert max(side["logprobs_differ_by"] for side in result[track]["sides"].values()) < 1e-4
    assert {side["mean_response"] for side in result["forced"]["sides"].values()} == {12.0}
    assert float(result["last_line"].removeprefix("ratio: ")) > 0


@pytest.mark.slow
@pytest.mark.long
def test_step(tmp_path: Path) -> None:
    result = quick("step.py", tmp_path / "step.json", *ALONE)
    assert 0 < result["engine_against_trainer_nats"] < 1e-4
    assert set(result["sides"]) == ({"ours"} if ALONE else {"trl", "ours"})
    assert all(0 < side["mean_response"] <= 24 for side in result["sides"].values())


def test_difference_of_gradients() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import torch
    from peers import difference

    a = {"w": torch.ones(4)}
    assert difference(a, {"w": torch.ones(4)})[0] == 0
    assert difference(a, {"w": torch.tensor([1.0, 1, 1, 1.001])})[0] > 1e-5
    with pytest.raises(AssertionError, match="not the same tensors"):
        difference(a, {"v": torch.ones(4)})


def test_recorded_lengths_follow_the_law(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import numpy as np
    from peers import EOS, Recorded, record

    data = record("tiny", 40, 50, (16, 64), 128, 1.0)
    lengths = np.array([len(r) for r in data.responses])
    cut = np.array([r[-1] != EOS for r in data.responses])
    assert 0.03 < cut.mean() < 0.07 and (lengths[cut] == 128).all() and 30 < lengths.mean() < 42
    assert not any((r[:-1] == EOS).any() for r in data.responses)
    data.save(tmp_path / "data.npz")
    again = Recorded.load(tmp_path / "data.npz")
    assert again.prompts == data.prompts and (again.rewards == data.rewards).all()
    assert all((a == b).all() for a, b in zip(again.responses, data.responses, strict=True))


def test_flops_count_each_prompt_once() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from peers import build, flops, record

    data = record("tiny", 2, 4, (8, 8), 16, 1.0)
    config = build("tiny").config
    found = flops(config, data)
    body = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 172)  # two layers: q, o; k, v; gate, up, down
    pairs = 4 * 2 * 64 * 36  # attention of a prompt of 8: 36 pairs, 4 FLOP, 2 layers of 64 columns
    spared = 4 * (2 * 3) * (2 * body * 8 + pairs)  # 4 forward passes over 3 of the 4 prompts of each group
    assert found["model"] - found["necessary"] == pytest.approx(spared)


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    out = tmp_path / "dryrun.json"
    command = [sys.executable, str(ROOT / "benchmarks/dryrun.py"), "--rounds", "1", "--out", str(out)]
    command += ["--profile", "workflow/profiles/smoke", "--config", "config/smoke.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["jobs"] > 80 and result["machine"]["versions"]["snakemake"]
    assert all(result[side]["cpu_s"]["median"] > 0 for side in ("ours", "plain")) and result["ratio"]["cpu_s"] > 0
