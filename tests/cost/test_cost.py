"""The cost model: shapes, the length law by simulation, decoding by a loop, monotonicity, and the known 7B step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from srt.config.models import LocalModel
from srt.config.plan import PlanConfig
from srt.cost.flops import count_tokens, forward_flops, update_flops
from srt.cost.lengths import Lengths, length_scale, longest, refill_rounds
from srt.cost.memory import sample_bytes, state_bytes, weight_bytes
from srt.cost.parameters import CENTRAL, GENEROUS, Parameters, central
from srt.cost.seconds import (
    Step,
    communicated_bytes,
    decode_seconds,
    passes_twice,
    prefill_seconds,
    sampling_seconds,
    segment_seconds,
    step_seconds,
    token_seconds,
)
from srt.cost.shapes import SHAPES, Shape, decoder, scaled, shape_of_model
from srt.cost.work import SamplingWork, TrainingWork

H200 = 141e9
QWEN = SHAPES["Qwen/Qwen2.5-Math-7B"]
LENGTHS = Lengths(1024, 3072, 180, 670)
# a step of the paper, without saved states: 16 prompts x 32 responses of 670 tokens
PAPER = TrainingWork(shape=QWEN, lengths=LENGTHS, prompts=16, responses=32, trained=32, steps=100, states="none")


def step(gpus: int = 8, mean: float = 670, assumed: Parameters = CENTRAL, **changes) -> Step:
    return step_seconds(replace(PAPER, lengths=replace(LENGTHS, response=mean), **changes), gpus, assumed)


@pytest.mark.parametrize(
    ("repo", "parameters"),
    [
        ("Qwen/Qwen2.5-Math-7B", 7.616e9),
        ("Qwen/Qwen2.5-1.5B", 1.544e9),
        ("Qwen/Qwen3-14B-Base", 14.768e9),
        ("Qwen/Qwen3-4B-Base", 4.022e9),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.030e9),
    ],
)
def test_shapes_have_the_published_number_of_parameters(repo: str, parameters: float) -> None:
    # norms and biases are left out: below 0.1 %
    assert SHAPES[repo].total == pytest.approx(parameters, rel=1e-3)


def test_the_shape_of_a_local_model_is_that_of_its_folder(tiny_base: Path, tmp_path: Path) -> None:
    def shape(folder: Path) -> Shape:
        return shape_of_model(LocalModel(source="local", path=str(folder)))

    counted, known = Shape.of(AutoConfig.from_pretrained(tiny_base)), shape(tiny_base)
    assert replace(counted, total=known.total) == known and known.total == pytest.approx(counted.total, rel=0.1)
    assert shape(tmp_path) == scaled(7e9)  # no config.json
    other = tmp_path / "experts"
    other.mkdir()
    (other / "config.json").write_text('{"num_experts": 8, "hidden_size": 8}', encoding="utf-8")
    assert shape(other) == scaled(7e9)


def test_the_shape_that_others_are_scaled_from() -> None:
    assert QWEN.matmul == pytest.approx(7.07e9, rel=1e-3)  # 6.53e9 body + 0.545e9 head
    assert QWEN.kv * 2 == 57_344  # bytes of a cached token
    assert QWEN.hidden * 2 == 196 * 1024  # bytes of a token's layer inputs
    assert scaled(QWEN.total) == QWEN


def test_the_central_parameters_are_the_plan_s() -> None:
    plan = PlanConfig()
    assert central(plan) == CENTRAL and CENTRAL.flops == 989e12 * 0.45
    assert (CENTRAL.prompt_share * 1024, CENTRAL.response_share * 3072) == pytest.approx((180, 670))
    assert central(plan.model_copy(update={"bandwidth": 1.0})).bandwidth == 1.0
    assert GENEROUS.bandwidth == CENTRAL.bandwidth and GENEROUS.response_share > CENTRAL.response_share


def test_flops_of_a_token() -> None:
    tokens = count_tokens([180], [670]).times(512)
    counts = {(True, False): 4, (True, True): 5, (False, False): 3}
    for (reference, old), count in counts.items():
        flops = update_flops(QWEN, tokens, reference=reference, old_policy=old)
        assert flops == pytest.approx(count * forward_flops(QWEN, tokens))
    # 11.5N per token; attention adds 1.2 %, and prompt tokens need no head. A layer's last product, 29 % of it, is not
    # computed again, and with `selective` the logits alone are.
    parts = [update_flops(QWEN, tokens, recompute=share) for share in (1.0, 0.5, 0.0)]
    full = update_flops(QWEN, tokens, recompute=1.0, old_policy=True)
    assert full == pytest.approx(11.5 * QWEN.matmul * 435_200, rel=0.02)
    assert parts[0] - parts[1] == pytest.approx(parts[1] - parts[2])
    assert (parts[0] - parts[2]) / (2 * QWEN.body * tokens.body) == pytest.approx(0.72, abs=0.01)
    assert parts[2] - update_flops(QWEN, tokens) == pytest.approx(2 * QWEN.head * tokens.head)


def test_the_known_step_of_a_7b_model() -> None:
    """16 x 32 responses of 670 tokens on 8 H200: 22 to 25 s per step, of which 14 s wait for the longest response."""
    one = step()
    assert one.rollout == pytest.approx(14, abs=1)
    apart = step(share_prompts=False)  # each response with its prompt
    assert apart.update == pytest.approx(8.2, abs=0.1)  # 9.4N at 45 % of 989 TFLOP/s
    assert step(share_prompts=False, checkpointing="selective").update == pytest.approx(7.1, abs=0.1)  # 8N, the logits
    assert step(share_prompts=False, activation_bytes=1e12).update == pytest.approx(7.1, abs=0.1)
    assert step(share_prompts=False, old_policy_pass=True).update == pytest.approx(9.9, abs=0.1)  # 11.4N
    assert one.update / apart.update == pytest.approx((180 + 32 * 670) / (32 * 850), abs=0.02)
    assert 22 <= apart.seconds <= 25
    # the authors' configuration: no CUDA graphs (3 to 4 times slower), and a separate old-policy pass
    slow = replace(CENTRAL, decode_slowdown=4.0)
    assert 60 <= step(assumed=slow, old_policy_pass=True, share_prompts=False).seconds <= 100
    assert step(vllm=False).rollout > 3.9 * one.rollout  # transformers' engine has none


def test_a_7b_step_on_two_gpus_takes_twice_the_time_and_half_the_gpus() -> None:
    """docs/cost.md: 22 s on 8 GPUs, 44 on 2 (reference in host memory, engine asleep); 178 and 88 GPU-seconds."""
    saved = {"zero_stage": 2, "save_every": 50, "states": "background"}
    two = step(2, **saved, reference_offload=True, engine_sleep=True, activation_bytes=38.9e9)
    assert step(**saved, activation_bytes=20e9).seconds == pytest.approx(22.3, abs=0.1)
    assert two.seconds == pytest.approx(44.0, abs=0.1)
    room = step(2, zero_stage=2, activation_bytes=38.9e9)
    assert two.update - room.update == pytest.approx(2 * QWEN.total / CENTRAL.host_link_rate)


def test_a_group_that_exceeds_the_room_costs_one_more_forward_pass() -> None:
    kept = 21_620 * 196 * 1024
    once, twice = (step(activation_bytes=room).update for room in (kept, kept - 1e8))
    assert twice - once == pytest.approx(step(old_policy_pass=True).update - step().update)
    for whole in ({"split_groups": False}, {"trained": 8}, {"checkpointing": "selective"}):  # 8 responses fit a pack
        assert not passes_twice(replace(PAPER, activation_bytes=1e9, **whole), 16_000 if "trained" in whole else 21_620)


def test_gpus_that_share_an_engine_read_a_part_of_its_weights_each() -> None:
    """A 7B reads 15.2 GB for a token, or half of it and 2 x 28 all-reduces."""
    alone, shared = (replace(PAPER, rollout_tensor_parallel=gpus) for gpus in (1, 2))
    sent, meetings = 2 * 28 * 3584 * 4 / CENTRAL.gpu_link_rate, 2 * 28 * CENTRAL.all_reduce_seconds

    def saved(alive: int) -> float:
        return token_seconds(alone, alive, 0, 2, CENTRAL) - token_seconds(shared, alive, 0, 2, CENTRAL)

    assert saved(1) == pytest.approx(QWEN.matmul / CENTRAL.bandwidth - meetings - sent)
    assert saved(256) == pytest.approx(-meetings - 256 * sent)  # bound by FLOP, which are as many


def test_what_zero_stages_send() -> None:
    weights = weight_bytes(QWEN, "bfloat16")
    sent = [communicated_bytes(replace(PAPER, zero_stage=stage), 10, 8) / weights for stage in range(4)]
    assert sent == pytest.approx([2 * 7 / 8, 2 * 7 / 8, 11 * 7 / 8, 30 * 7 / 8])
    assert communicated_bytes(replace(PAPER, zero_stage=3, old_policy_pass=True), 10, 1) == 0


def draws(mean: float, limit: float, size: int, seed: int = 0) -> np.ndarray:
    return np.minimum(np.random.default_rng(seed).exponential(length_scale(mean, limit), size), limit)


@pytest.mark.parametrize(("mean", "limit"), [(670, 3072), (100, 3072), (1400, 3072), (23, 60)])
def test_the_length_law_by_simulation(mean: float, limit: float) -> None:
    assert draws(mean, limit, 400_000).mean() == pytest.approx(mean, rel=0.01)
    for sequences in (1, 8, 64):
        longest_drawn = draws(mean, limit, 20_000 * sequences, 1).reshape(-1, sequences).max(axis=1).mean()
        # the formula truncates the mean, not each draw: an upper bound where truncation matters
        found = longest(sequences, mean, limit)
        assert longest_drawn * 0.98 <= found <= max(longest_drawn * 1.25, limit * 0.999)
    assert longest(512, mean, limit) <= limit


def test_lengths_at_the_limit() -> None:
    assert math.isinf(length_scale(3072, 3072)) and longest(4, 3072, 3072) == 3072
    assert Lengths.of_limits(1024, 3072, replace(CENTRAL, response_share=2.0)).response == 3072


def test_decoding_by_a_loop() -> None:
    """Token by token: each pass reads the weights and the live sequences' cache, or does their FLOPs."""
    sequences, prompt, mean, limit = 64, 180, 670, 3072
    scale, end, total = length_scale(mean, limit), longest(512, mean, limit), 0.0
    for t in range(int(end)):
        alive = max(1.0, sequences * math.exp(-(t + 0.5) / scale))
        read = 2 * (QWEN.matmul + alive * QWEN.kv * (prompt + t + 0.5)) / CENTRAL.bandwidth
        flop = alive * (2 * QWEN.matmul + 4 * QWEN.attention * (prompt + t + 0.5))
        total += max(read, flop / (CENTRAL.peak_flops * CENTRAL.efficiency)) + CENTRAL.launch_seconds
    found = decode_seconds(PAPER, sequences, 8, CENTRAL, of=512)
    assert found == pytest.approx(total, rel=2e-3)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.sampled_from([1, 2, 4, 8, 16]), st.floats(50, 2500), st.floats(1.05, 3),
    st.sampled_from(["prompts", "mean", "size", "efficiency", "bandwidth", "launch"]),
)  # fmt: skip
def test_more_work_never_costs_less(gpus: int, mean: float, factor: float, what: str) -> None:
    base = step(gpus, mean)
    if what == "prompts":
        more = step(gpus, mean, prompts=int(16 * factor) + 1)
    elif what == "mean":
        more = step(gpus, min(mean * factor, 3072))
    elif what == "size":
        more = step(gpus, mean, shape=scaled(QWEN.total * factor))
    else:
        slower = {
            "efficiency": {"efficiency": CENTRAL.efficiency / factor},
            "bandwidth": {"bandwidth": CENTRAL.bandwidth / factor},
            "launch": {"launch_seconds": CENTRAL.launch_seconds * factor},
        }
        more = step(gpus, mean, replace(CENTRAL, **slower[what]))
    assert more.seconds >= base.seconds * (1 - 1e-9) and more.rollout >= base.rollout * (1 - 1e-9)


def test_more_gpus_are_faster_but_cost_more() -> None:
    """Rollouts wait for the longest response on any number of GPUs, so GPU-seconds grow."""
    steps = {gpus: step(gpus).seconds for gpus in (2, 4, 8, 16)}
    assert steps[2] > steps[4] > steps[8] > steps[16]
    assert 2 * steps[2] < 4 * steps[4] < 8 * steps[8] < 16 * steps[16]


def test_saving_in_the_background_costs_the_copy() -> None:
    state = state_bytes(QWEN, "bfloat16")
    assert step(states="waiting").save == pytest.approx(state / CENTRAL.disk_rate / 10)
    assert step(states="background").save == pytest.approx(state / (8 * CENTRAL.host_copy_rate) / 10)
    assert step(states="none").save == 0


def test_a_segment_reads_and_writes_a_state() -> None:
    state, weights = state_bytes(QWEN, "bfloat16"), weight_bytes(QWEN, "bfloat16")

    def ends(gpus: int, states: str) -> float:
        work = replace(PAPER, states=states)
        bare = CENTRAL.start_seconds + 100 * step(gpus, states=states).seconds + weights / CENTRAL.disk_rate
        return segment_seconds(work, gpus, CENTRAL) - bare

    assert ends(8, "none") == pytest.approx(0)
    assert ends(8, "waiting") == pytest.approx(2 * state / CENTRAL.disk_rate)
    # 2 ranks at one process's rate each: each reads half, and writes the weights beside half of the rest
    assert ends(2, "background") == pytest.approx((state / 2 + weights + (state - weights) / 2) / CENTRAL.disk_rate)
    # many ranks at the disk's rate
    assert ends(16, "background") == pytest.approx((state + max(state, 4 * (weights + (state - weights) / 16))) / 4e9)


def test_sampling_is_bound_by_throughput() -> None:
    def seconds(problems: int, mean: float = 670, gpu_bytes: float = H200) -> float:
        work = SamplingWork(shape=QWEN, lengths=replace(LENGTHS, response=mean), prompts=problems, responses=32)
        return sampling_seconds(work, 1, gpu_bytes, CENTRAL)

    many, twice = seconds(4000), seconds(8000)
    rate = 8000 * 32 * 670 / (twice - CENTRAL.start_seconds)
    assert twice - many == pytest.approx(4000 * 32 * 670 / rate, rel=0.1)
    assert seconds(0) == CENTRAL.start_seconds and seconds(8) < seconds(9) < seconds(10, mean=700)
    assert 15_000 < rate < 60_000  # tokens per second of one H200 on a 7B model
    assert seconds(4000, gpu_bytes=24e9) > 1.5 * many  # a small cache holds fewer sequences side by side


@pytest.mark.parametrize(("size", "kept", "most"), [(16, 0.5, 4), (16, 0.3, 4), (16, 0.8, 2), (4, 0.1, 9), (1, 1.0, 3)])
def test_rounds_of_a_refill_by_simulation(size: int, kept: float, most: int) -> None:
    rng, rounds = np.random.default_rng(0), []
    for _ in range(20_000):
        found = drawn = 0
        while found < size and drawn < most:
            found, drawn = found + rng.binomial(size, kept), drawn + 1
        rounds.append(drawn)
    assert refill_rounds(size, kept, most) == pytest.approx(np.mean(rounds), abs=0.03)


def test_rollouts_are_drawn_as_often_as_their_rounds() -> None:
    one = step().rollout
    assert step(rollout_rounds=4).rollout == pytest.approx(one * refill_rounds(16, CENTRAL.refill_kept, 4))
    assert step(rollout_rounds=4, assumed=replace(CENTRAL, refill_kept=0.0)).rollout == pytest.approx(4 * one)
    assert step(rollout_rounds=0).rollout == 0 < step(rollout_rounds=0).update  # stored responses


def test_a_cpu_counts_flop_only() -> None:
    tiny = TrainingWork(
        shape=decoder(2, 128, 4, 2, 32, 256, 64, tied=True), lengths=Lengths(32, 60, 25, 23), prompts=16, responses=32,
        trained=32, steps=10,
    )  # fmt: skip
    one, two = (step_seconds(replace(tiny, threads=threads), 0, CENTRAL) for threads in (1, 2))
    assert one.update == pytest.approx(2 * two.update) and one.other == 0 and one.rollout > 0
    assert prefill_seconds(tiny, 0, CENTRAL) < one.rollout
    assert token_seconds(tiny, 1, 10, 0, replace(CENTRAL, bandwidth=1.0)) < 0.01


def test_bytes() -> None:
    assert weight_bytes(QWEN, "bfloat16") == pytest.approx(15.2e9, rel=0.01)
    assert state_bytes(QWEN, "bfloat16") == 14 * QWEN.total and state_bytes(QWEN, "float32") == 16 * QWEN.total
    assert state_bytes(QWEN, "float32", zero_stage=0) == 12 * QWEN.total
    assert sample_bytes(274, 32, 670) == pytest.approx(41e6, rel=0.05)
