"""DeepSpeed against plain AdamW, two processes against one, checkpoints of two processes.

As a program this file is a rank: it trains real segments in both processes and leaves their outputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srt.common.errors import SrtError
from srt.common.io import read_json, read_parquet, sha256_file
from srt.distributed.deepspeed_engine import DeepSpeedEngine
from srt.distributed.world import World, init_world, shutdown
from srt.training.run import run_segment
from srt.training.training_set import read_training_set
from support import ROOT
from support.specs import train_spec
from support.training import script, segment, torchrun, two_ranks

# Name, changes to the spec, and checkpoints of the chain (the last is step 3).
RUNS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("zero0", {"zero_stage": 0}, [3]),
    ("zero1", {"zero_stage": 1}, [1, 3]),
    ("zero2", {"zero_stage": 2}, [3]),
    ("zero3", {"zero_stage": 3}, [1, 3]),
    ("zero3s", {"zero_stage": 3, "gradient_checkpointing": "full"}, [3]),
    ("several", {"iterations": 2, "clip": 0.2, "kl_placement": "loss", "zero_stage": 2}, [3]),
    ("authors", {"preset": "authors", "micro_batch_sequences": 6, "zero_stage": 1}, [3]),
    ("whole", {"zero_stage": 1}, [3]),
]
# Three prompts on two ranks are unequal shares; one row per micro-batch makes unequal numbers of micro-batches.
COMMON = {"prompts_per_step": 3, "rollouts_per_prompt": 4, "learning_rate": 2e-4, "micro_batch_tokens": 1}


def train_all(folder: Path, base: Path, problems: Path) -> None:
    """Train `RUNS` under `folder`, on all processes of this job."""
    for name, changes, cuts in RUNS:
        spec = train_spec(**COMMON, **changes)
        data, truth = read_training_set(problems, spec["reward"])
        for start, stop in zip([0, *cuts], cuts, strict=False):
            place = folder / name
            resume = place / str(start) / "state" if start else None
            out = {f"{name}_out": place / str(stop) / name for name in ("model", "state")}
            out["metrics_out"] = place / str(stop) / "metrics.parquet"
            out["activation_mb"] = int(name == "zero3s")  # room in which layers keep their activations
            run_segment(segment(place, base, spec, start, stop, resume=resume, **out), data, truth)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_base, sums) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_all(folder, tiny_base, sums)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory, tiny_base, sums) -> Path:
    folder = tmp_path_factory.mktemp("together")
    result = two_ranks(__file__, str(folder), str(tiny_base), str(sums))
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero3s", "authors", "several"])
def test_two_processes_are_one(alone, together, tiny_base, name):
    """Weights agree to 1e-5 after one step and after three. AdamW hides a wrong scale; the logged norm shows it."""
    base = load_file(tiny_base / "model.safetensors")
    for step in {n: cuts for n, _, cuts in RUNS}[name]:
        ours, theirs = alone / name / str(step), together / name / str(step)
        assert distance(weights(ours), weights(theirs)) < 1e-5
        assert distance(weights(ours), base) > 1e-4
        one, two = (read_parquet(x / "metrics.parquet").to_pandas() for x in (ours, theirs))
        assert one["grad_norm"].gt(1e-3).all() and one["reward"].gt(0).all()
        drift = [c for c in one if c.startswith("mismatch")]  # only rounding
        assert one[drift].lt(1e-4).all(axis=None) and two[drift].lt(1e-4).all(axis=None)
        one, two = (torch.tensor(x.drop(columns=[*drift, "packed_tokens"]).to_numpy(float)) for x in (one, two))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3", "zero3s"])
def test_stages_are_one_another(alone, name):
    assert distance(weights(alone / name / "3"), weights(alone / "zero1" / "3")) < 1e-5


@pytest.mark.slow
def test_resume_with_two_processes_is_bitwise(together):
    """A chain of two segments equals one segment of three steps: weights, metrics, each rank's optimizer state."""
    chain, whole = together / "zero1" / "3", together / "whole" / "3"
    assert sha256_file(chain / "model/model.safetensors") == sha256_file(whole / "model/model.safetensors")
    second, three = (read_parquet(x / "metrics.parquet").to_pandas() for x in (chain, whole))
    assert second.equals(three.iloc[1:].reset_index(drop=True))
    ours, theirs = (
        {k: v for k, v in read_json(x / "state" / "manifest.json").items() if k.startswith("engine/")}
        for x in (chain, whole)
    )
    assert ours == theirs
    assert sum("rank_" in name and "optim" in name for name in ours) == 2


def resuming(folder: Path, base: Path, sums: Path, resume: Path) -> list[str]:
    """The script that continues from a state of step 1 to step 3."""
    return script(segment(folder, base, train_spec(**COMMON), 1, 3, work=folder / "work", resume=resume), sums)


@pytest.mark.slow
def test_the_script_under_torchrun_goes_on_from_a_state_of_two(tmp_path, tiny_base, sums, together):
    """As the train rule starts it: bitwise one long call."""
    resume = together / "zero1" / "1" / "state"
    result = torchrun(*resuming(tmp_path, tiny_base, sums, resume))
    assert result.returncode == 0, result.stderr[-4000:]
    assert sha256_file(tmp_path / "step-3/model/model.safetensors") == sha256_file(
        together / "whole/3/model/model.safetensors"
    )
    assert [p.name for p in (tmp_path / "work").glob("*state-*")] == ["state-3"]


@pytest.mark.slow
def test_a_state_of_two_is_refused_by_one(tmp_path, tiny_base, sums, together):
    resume = together / "zero1" / "1" / "state"
    command = [sys.executable, *resuming(tmp_path, tiny_base, sums, resume)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 2 and "was written by 2 processes, this job has 1" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "step-3").exists()


# -- one process against plain torch -----------------------------------------------------------------------------


def toy() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


OPTIONS: dict[str, Any] = {"learning_rate": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "grad_clip": 0.5}


def losses(step: int) -> list[tuple[torch.Tensor, float]]:
    """Two micro-batches of ids, scaled so that some steps are clipped and others are not."""
    generator = torch.Generator().manual_seed(step)
    return [(torch.randint(11, (5,), generator=generator), 10.0 ** (step % 3 - 2) * factor) for factor in (1.0, -3.0)]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeed_is_plain_adamw(zero_stage):
    """Several backward passes per step, summed and not averaged, clipped by their common norm, with decoupled decay."""
    model, plain = toy(), toy()
    engine = DeepSpeedEngine(model, init_world(), **OPTIONS, zero_stage=zero_stage, dtype="float32")
    optimizer = torch.optim.AdamW(
        plain.parameters(), lr=OPTIONS["learning_rate"], betas=OPTIONS["betas"], weight_decay=OPTIONS["weight_decay"]
    )
    clipped = 0
    for step in range(6):
        parts = losses(step)
        for number, (ids, scale) in enumerate(parts, start=1):
            engine.backward(scale * engine.model(ids).square().sum(), last=number == len(parts))
            (scale * plain(ids).square().sum()).backward()
        expected = float(torch.nn.utils.clip_grad_norm_(plain.parameters(), OPTIONS["grad_clip"]))
        norm, updated = engine.step()
        assert updated and norm == pytest.approx(expected, rel=1e-4)
        clipped += expected > OPTIONS["grad_clip"]
        optimizer.step()
        optimizer.zero_grad()
        with engine.whole():
            for (name, ours), theirs in zip(engine.weights(), plain.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs.data, atol=1e-5, rtol=0, msg=f"{name} at step {step}")
    assert 0 < clipped < 6


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_memory_is_reserved_by_the_models_size(zero_stage):
    """DeepSpeed's default buckets of 500 million numbers take 2 GB per engine; a process that large cannot fork."""

    def reserved() -> int:  # the size of this process, including pages never touched
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    kept, before = [], 0
    for number in range(3):
        engine = DeepSpeedEngine(toy(), init_world(), **OPTIONS, zero_stage=zero_stage, dtype="float32")
        parts = losses(0)
        for last, (ids, scale) in enumerate(parts, start=1):
            engine.backward(scale * engine.model(ids).square().sum(), last=last == len(parts))
        engine.step()
        kept.append(engine)
        before = before if number else reserved()  # after the first engine, which starts threads and loads libraries
    assert reserved() - before < 500e6


def test_bfloat16_without_masters_is_refused():
    with pytest.raises(SrtError, match="zero_stage 0 keeps no float32 masters"):
        DeepSpeedEngine(toy().bfloat16(), init_world(), **OPTIONS, zero_stage=0, dtype="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_updates_nothing(zero_stage, dtype, poison):
    """The step is skipped entirely: weights and moments equal those of a run without it."""
    if zero_stage == 0 and dtype == "bfloat16":
        pytest.skip("refused: no float32 masters")
    ids = torch.tensor([1, 2, 3])
    found = []
    for poisoned in (False, True):
        engine = DeepSpeedEngine(
            toy().to(getattr(torch, dtype)), init_world(), **OPTIONS, zero_stage=zero_stage, dtype=dtype
        )
        for step in range(3):
            if poisoned and step == 1:
                engine.backward(engine.model(ids).float().square().sum(), last=False)
                engine.backward(engine.model(ids).float().sum() * poison, last=True)
                norm, updated = engine.step()
                assert not updated and norm != norm
            engine.backward(engine.model(ids).float().square().sum(), last=True)
            norm, updated = engine.step()
            assert updated and 0 < norm < 1e6
        with engine.whole():
            found.append({name: w.clone() for name, w in engine.weights()})
    assert all(torch.equal(found[1][name], w) for name, w in found[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_bfloat16_has_float32_masters(zero_stage):
    """220 steps of 1e-5, each far below bfloat16's spacing of 4e-3 below 1, add up to more than half of it."""
    options = OPTIONS | {"learning_rate": 1e-5, "weight_decay": 0.0}
    model = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(model.weight)
    engine = DeepSpeedEngine(model, init_world(), **options, zero_stage=zero_stage, dtype="bfloat16")
    for _ in range(220):
        engine.backward(engine.model(torch.ones(1, 4, dtype=torch.bfloat16)).float().sum(), last=True)
        assert engine.step() == (pytest.approx(4.0, rel=1e-2), True)
    assert (dict(engine.weights())["weight"] == 1 - 2.0**-8).all()


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_gradients_are_summed_in_float32(zero_stage):
    """1 and 128 times 2^-9: next to 1 bfloat16 has no number below 2^-7, so its sum would stay at 1.

    Each pass counts once: at stage 1 a pass used to be counted again with every later pass.
    """
    model = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    engine = DeepSpeedEngine(model, init_world(), **OPTIONS, zero_stage=zero_stage, dtype="bfloat16")
    ones = torch.ones(1, 4, dtype=torch.bfloat16)
    for step in range(2):  # the sum starts at zero again
        for number in range(129):
            scale = 2.0**-9 if number else 1.0
            engine.backward(scale * engine.model(ones).float().sum(), last=number == 128)
        assert engine.step() == (pytest.approx(4 * 1.25, rel=1e-4), True), step


def test_a_checkpoint_holds_weights_and_moments(tmp_path):
    engine = DeepSpeedEngine(toy(), init_world(), **OPTIONS, zero_stage=1, dtype="float32")

    def one(target: DeepSpeedEngine, step: int) -> None:
        target.backward(target.model(losses(step)[0][0]).square().sum(), last=True)
        target.step()

    for step in range(3):
        one(engine, step)
    (tmp_path / "state").mkdir()
    engine.save(tmp_path / "state")
    other = DeepSpeedEngine(toy(), init_world(), **OPTIONS, zero_stage=1, dtype="float32")
    other.load(tmp_path / "state")
    for target in (engine, other):
        one(target, 3)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(engine.weights(), other.weights(), strict=True))


def test_a_state_of_another_model_is_a_sentence(tmp_path):
    engine = DeepSpeedEngine(toy(), init_world(), **OPTIONS, zero_stage=1, dtype="float32")
    with pytest.raises(SrtError, match=r"holds no training state|not a training state"):
        engine.load(tmp_path)
    engine.save(tmp_path)
    other = DeepSpeedEngine(torch.nn.Linear(2, 2), init_world(), **OPTIONS, zero_stage=1, dtype="float32")
    with pytest.raises(SrtError, match="not a training state of this model"):
        other.load(tmp_path)


@pytest.mark.slow
def test_an_engine_starts_without_torchs_compiler():
    """DeepSpeed's own optimizer would load the compiler, which takes longer than loading torch. It stays usable."""
    script = (
        "import os, sys, torch\n"
        "from srt.distributed.deepspeed_engine import DeepSpeedEngine\nfrom srt.distributed.world import init_world\n"
        "DeepSpeedEngine(torch.nn.Linear(2, 2), init_world(), learning_rate=1e-3, betas=(0.9, 0.99),\n"
        "                weight_decay=0.0, grad_clip=1.0, zero_stage=1, dtype='float32')\n"
        "print('torch._inductor.compile_fx' in sys.modules, 'TORCHDYNAMO_DISABLE' in os.environ)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "DS_ACCELERATOR": "cpu"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHDYNAMO_DISABLE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=400)
    assert done.stdout.splitlines()[-1:] == ["False False"], done.stderr


def test_the_world_of_one_process():
    assert init_world() == World(0, 1, torch.device("cpu")) and init_world().main


if __name__ == "__main__":
    try:
        train_all(*map(Path, sys.argv[1:4]))
    finally:
        shutdown()
