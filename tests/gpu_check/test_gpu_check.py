"""`srt gpu-check` on a CPU with a tiny model: every part passes or says why not, and each can fail."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from srt.cli.__main__ import dispatch
from srt.common.errors import SrtError
from srt.common.io import read_json, write_json
from srt.config.plan import PlanConfig
from srt.gpu_check import packs, sampling, steps
from srt.gpu_check.parts import FAIL, IMPOSSIBLE, PASS, Fault, Machine, NotPossible, Verdict, perform
from srt.gpu_check.registry import PARTS
from srt.gpu_check.report import Report, line, table
from srt.gpu_check.run import Check, fitting_size
from srt.packing import logprobs
from srt.plan.measured import with_measured_rates
from support import ROOT
from support.bare import bare_python
from support.config_files import full

BARE = ("packs in float32", "packs in bfloat16", "steps without DeepSpeed", "evaluation, transformers")
STEPS = "steps without DeepSpeed"
TWO = "steps in two processes"
REST = tuple(name for name in PARTS if name not in (*BARE, TWO))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts that need DeepSpeed or vLLM, through the command line in this environment."""
    out = tmp_path_factory.mktemp("report") / "cpu.json"
    assert dispatch(["gpu-check", "--size", "tiny", "--out", str(out), "--only", *REST]) == 0
    return read_json(out)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine("tiny", tmp_path_factory.mktemp("machine"))


def by_part(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["part"]: part for part in report["parts"]}


# -- the whole check ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_part_passes_or_says_why_not(report) -> None:
    parts = by_part(report)
    assert list(parts) == list(REST)
    for name, part in parts.items():
        if part["verdict"] != PASS:
            assert part["verdict"] == IMPOSSIBLE and part["said"] in ("there is no GPU", "vllm is not installed"), part
        assert PARTS[name] and part["seconds"] >= 0
    for stage in (1, 2, 3):
        figures = parts[f"steps, ZeRO {stage}"]["figures"]
        assert figures["first_grad_norm"] == pytest.approx(parts["steps, ZeRO 1"]["figures"]["first_grad_norm"], 1e-5)
        assert figures["mismatch_mean"] < 1e-5 and figures["update_flops"] > 0 and figures["sync_seconds"] > 0
    saved = parts["steps, ZeRO 1"]["figures"]
    assert saved["state_bytes"] > 12 * 0.4e6 and saved["save_seconds"] > 0  # a model of 0.4 million parameters
    assert parts["killed in a save and resumed"]["figures"]["resumed_apart"] == 0
    assert report["rates"] == {} and report["gpu"] == "" and report["versions"]["torch"]


@pytest.mark.long
def test_two_processes_take_the_steps_of_one(report, machine) -> None:
    """Over gloo; 16 CPU seconds."""
    figures = PARTS[TWO].work(machine)
    wanted = by_part(report)["steps, ZeRO 1"]["figures"]["first_grad_norm"]
    assert figures["first_grad_norm"] == pytest.approx(wanted, 1e-5)


@pytest.mark.slow
def test_a_rank_takes_its_steps_under_each_zero_stage(machine, monkeypatch) -> None:
    """What both processes do, in one; and what is said if the stages differ."""
    figures = steps.in_two(machine)
    assert figures["said"].startswith("ZeRO 1, 2 and 3: gradient norms") and figures["first_grad_norm"] > 0
    norms = iter((1.0, 1.0, 1.1))
    monkeypatch.setattr(steps, "take", lambda *args: {"first_grad_norm": next(norms)})
    with pytest.raises(Fault, match=r"differs by 9.1% between ZeRO stages: \{1: 1.0, 2: 1.0, 3: 1.1\}"):
        steps.in_two(machine)


def test_two_processes_are_two_ranks_of_torchrun(machine, monkeypatch) -> None:
    started: list[list[str]] = []

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        started.append(words)
        assert "RANK" not in options["env"]
        return subprocess.CompletedProcess(words, 1, "", "NCCL error: unhandled system error")

    monkeypatch.setattr("srt.gpu_check.registry.subprocess.run", run)
    monkeypatch.setenv("RANK", "0")
    failed(TWO, machine, "RuntimeError: torchrun ended with 1: NCCL error: unhandled system error")
    assert "--nproc-per-node=2" in started[0] and Path(started[0][started[0].index("--") + 1]).is_file()
    monkeypatch.setattr(Machine, "gpu", True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(NotPossible, match="torch sees one GPU"):
        PARTS[TWO].work(machine)


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_takes_its_steps_and_samples(report) -> None:
    parts = by_part(report)
    assert parts["steps, vLLM"]["verdict"] == parts["evaluation, vLLM"]["verdict"] == PASS
    assert parts["steps, vLLM"]["figures"]["cache_tokens"] > 1000
    assert parts["evaluation, vLLM"]["figures"]["mean"] < 1e-4


@pytest.mark.slow
@pytest.mark.long
def test_a_bare_image_does_what_it_can(tmp_path) -> None:
    """Without DeepSpeed, vLLM, psutil, datasets and Snakemake."""
    (tmp_path / "site").mkdir()
    python, environment = bare_python(tmp_path / "site", ROOT / "src")
    out = tmp_path / "bare.json"
    words = [*python, "-m", "srt.cli", "gpu-check", "--out", str(out), "--only", *BARE, "steps, ZeRO 1", "killed"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = by_part(read_json(out))
    assert {name for name, part in parts.items() if part["verdict"] == PASS} == set(BARE)
    assert {part["said"] for part in parts.values() if part["verdict"] != PASS} == {"deepspeed is not installed"}
    assert "-     steps, ZeRO 1" in done.stdout and "update" in done.stdout
    assert max(parts["packs in float32"]["figures"][f"gradient_{mode}"] for mode in packs.MODES) < 1e-4


@pytest.mark.slow
def test_bfloat16_is_checked_as_on_a_gpu(tmp_path, monkeypatch) -> None:
    """Steps and stored log-probs in the type that GPUs compute in, well within the tolerance of 0.05 nats."""
    monkeypatch.setattr(Machine, "dtype", "bfloat16")
    machine = Machine("tiny", tmp_path)
    for name, key in ((STEPS, "mismatch_mean"), ("evaluation, transformers", "mean")):
        verdict = perform(name, PARTS[name].work, machine)
        assert verdict.verdict == PASS and 1e-5 < verdict.figures[key] < 0.025, verdict


# -- each part can fail ------------------------------------------------------------------------------------------------


def failed(name: str, machine: Machine, sentence: str) -> None:
    verdict = perform(name, PARTS[name].work, machine)
    assert verdict.verdict == FAIL and sentence in verdict.said, verdict


def test_wrong_packs_fail(machine, monkeypatch) -> None:
    """Positions that do not restart with each response."""
    whole = logprobs.response_logprobs

    def shifted(model: Any, p: Any, temperature: float) -> Any:
        return whole(model, replace(p, position=torch.arange(len(p.position))), temperature)

    monkeypatch.setattr("srt.training.pack_probe.response_logprobs", shifted)
    failed("packs in float32", machine, "none: a log-prob is")
    failed("packs in bfloat16", machine, "none: log-probs are")


def test_stale_weights_fail(machine, monkeypatch) -> None:
    """The engine shares the policy's tensors, so it is given others."""
    monkeypatch.setattr(steps, "differing_tensors", lambda engine, weights, dtype: ["model.norm.weight"])
    failed(STEPS, machine, "1 tensors differ after a sync, first model.norm.weight")
    monkeypatch.setattr(steps, "differing_tensors", lambda engine, weights, dtype: [])
    failed(STEPS, machine, "one changed element of model.layers.1")


def test_an_optimizer_that_does_nothing_fails(machine, monkeypatch) -> None:
    monkeypatch.setattr("srt.gpu_check.plain_policy.PlainPolicy.step", lambda self: (1.0, True))
    failed(STEPS, machine, "the policy is still the base model after three steps")


def test_wrong_stored_logprobs_fail(machine, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "response_logprobs", lambda *args: (logprobs.response_logprobs(*args)[0] + 0.1, None))
    failed("evaluation, transformers", machine, "stored log-probs are 0.1 nats from the trainer's on average")


def test_whatever_a_part_raises_is_its_verdict(machine) -> None:
    def raises(error: BaseException, machine: Machine) -> dict[str, Any]:
        raise error

    memory = perform("a", partial(raises, torch.OutOfMemoryError("CUDA out of memory\nTried")), machine)
    assert (memory.verdict, memory.said[:30]) == (FAIL, "the GPU's memory is too small ")
    kernel = perform("a", partial(raises, RuntimeError("CUDA error: an illegal memory access\nmore")), machine)
    assert (kernel.verdict, kernel.said) == (FAIL, "RuntimeError: CUDA error: an illegal memory access")


def test_a_process_that_dies_costs_one_part(monkeypatch) -> None:
    """A name that the child does not know ends it; the parts after it still have their turn."""
    monkeypatch.setitem(PARTS, "dies", PARTS["rates of the machine"])
    told: list[Verdict] = []
    check = Check("tiny", "", 5, told.append)

    def over_after_one(verdict: Verdict) -> None:
        told.append(verdict)
        check.end = 0.0

    check.tell = over_after_one
    found = check.run(["dies", "rates of the machine"])
    assert [v.verdict for v in found.verdicts] == [FAIL, IMPOSSIBLE] and found.verdicts == told
    assert found.verdicts[0].said == "its process ended with 1: KeyError: 'dies'" and found.failed


def test_no_part_outlives_the_time(tmp_path) -> None:
    found = Check("tiny", "", 0, lambda verdict: None).run(list(PARTS))
    assert {v.verdict for v in found.verdicts} == {IMPOSSIBLE} and len(found.verdicts) == len(PARTS)
    found = Check("tiny", "", 0.01, lambda verdict: None).run(["rates of the machine", "packs in float32"])
    assert [v.verdict for v in found.verdicts] == [FAIL, IMPOSSIBLE]
    assert "still ran when 0.01 minutes were over" in found.verdicts[0].said
    found.write(tmp_path / "x.json")
    assert (tmp_path / "x.log").exists()


def test_parts_of_vllm_have_a_process_of_their_own_on_a_gpu() -> None:
    check, todo, processes = Check("tiny", "NVIDIA H200", 1, lambda verdict: None), list(PARTS), []
    while todo:
        processes.append(check._together(todo))
        todo = todo[len(processes[-1]) :]
    assert [names for names in processes if any("vLLM" in name for name in names)] == [
        ["steps, vLLM"], ["steps, vLLM that sleeps"], ["evaluation, vLLM"],
    ]  # fmt: skip
    assert len(processes) == 5


def test_wrong_parts_are_named() -> None:
    with pytest.raises(SrtError, match=r"--only: no part is called 'stepz' \(did you mean"):
        dispatch(["gpu-check", "--only", "stepz"])


def test_the_size_fits_the_memory() -> None:
    assert [fitting_size(size) for size in (0, 24e9, 80e9, 141e9)] == ["tiny", "135m", "1.5b", "1.5b"]


# -- the report, and the plan that reads it ----------------------------------------------------------------------------

HARDWARE = {
    "peak_flops": float("nan"), "matmul_flops": 600e12, "memory_rate": 4e12, "host_link_rate": 5e10,
    "host_copy_rate": 3e9, "disk_rate": 2e9,
}  # fmt: skip
STEP = {
    "update_flops": 300e12, "seconds_update": 2.0, "seconds_other": 0.5, "state_bytes": 20e9, "snapshot_seconds": 4.0,
    "save_seconds": 10.0, "seconds_rollout": 1.28, "longest_response": 128, "start_seconds": 40.0, "sync_seconds": 0.1,
    "rollout_tokens_per_second": 1e4, "update_tokens_per_second": 1e4, "peak_bytes": 5e10, "planned_bytes": 6e10,
    "cache_tokens": 123456,
}  # fmt: skip


def measured() -> Report:
    figures = {"rates of the machine": HARDWARE, "steps, ZeRO 1": STEP, "steps, vLLM": STEP}
    verdicts = [Verdict(name, PASS, "", 1.0, values) for name, values in figures.items()]
    return Report("1.5b", "NVIDIA H200", [*verdicts, Verdict("packs in float32", FAIL, "off")], startup_seconds=10.0)


def test_rates_are_the_plans_keys() -> None:
    found = measured().to_json()
    assert set(found["rates"]) <= set(PlanConfig.model_fields)
    weights = 2 * 1.54e9
    assert found["rates"] == pytest.approx(
        {
            "peak_flops": 600e12, "bandwidth": 4e12, "host_link_rate": 5e10, "host_copy_rate": 5e9, "disk_rate": 2e9,
            "efficiency": 0.25, "step_seconds": 0.5, "launch_seconds": 0.01 - weights / 4e12, "start_seconds": 50.0,
        },
        rel=1e-2,
    )  # fmt: skip
    assert found["parts"][0]["figures"]["peak_flops"] is None, "JSON has no nan"
    json.dumps(found, allow_nan=False)
    text = table(measured())
    assert "steps, vLLM" in text and "0.25" in text and "123,456" in text
    assert line(measured().verdicts[-1]).startswith("FAIL  packs in float32")


def test_the_plan_takes_the_rates_of_a_report(tmp_path) -> None:
    path = tmp_path / "gpu_check_h200.json"
    measured().write(path)
    config = full()
    named = config.model_copy(update={"plan": config.plan.model_copy(update={"measured": str(path)})})
    changed = with_measured_rates(named)
    assert changed.plan.efficiency == pytest.approx(0.25) and changed.plan.bandwidth == 4e12
    assert changed.plan.response_tokens == config.plan.response_tokens
    assert with_measured_rates(config) is config
    for content, sentence in (
        ({"rates": {}}, "was made without a GPU"),
        ([], "is no report"),
        ({"rates": {"bandwidth": -1}}, "rates: bandwidth"),
    ):
        write_json(path, content)
        with pytest.raises(SrtError, match=sentence):
            with_measured_rates(named)
    path.unlink()
    with pytest.raises(SrtError, match="does not exist: run `make gpu-check`"):
        with_measured_rates(named)


def test_responses_of_the_random_model_have_boxes_and_end(machine) -> None:
    from srt.models.checkpoint import load_model

    _, tokenizer, ends = load_model(machine.model, "float32")
    assert len(ends) > 5 and len(tokenizer) == machine.size.vocabulary
    assert "\\boxed{" in tokenizer.decode([300]) and Path(machine.model, "model.safetensors").exists()
