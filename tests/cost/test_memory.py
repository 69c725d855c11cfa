"""Memory of a GPU and of a node: against published arithmetic, and monotone in every size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import CheckpointPolicy
from transformers import Qwen2Config, Qwen2ForCausalLM

from srt.config.train import Checkpointing
from srt.cost import memory
from srt.cost.lengths import Lengths
from srt.cost.memory import (
    activation_bytes,
    engine_bytes,
    head_bytes,
    host_sampling_bytes,
    host_training_bytes,
    kept_layers,
    sampling_bytes,
    token_bytes,
    trainer_bytes,
    training_bytes,
    workspace_bytes,
)
from srt.cost.parameters import GENEROUS
from srt.cost.seconds import sampling_seconds, segment_seconds
from srt.cost.shapes import Shape, decoder, scaled
from srt.cost.work import SamplingWork, TrainingWork
from srt.packing import activation_checkpointing
from srt.packing.activation_checkpointing import ActivationRoom, checkpoint_activations
from srt.packing.logprobs import chunk_of, packed, response_logprobs
from srt.packing.pack import pack
from support.paper_work import GB, H200, PAPER, SHAPE_7B, SHAPE_14B

WHOLE = replace(PAPER, split_groups=False)  # with memory for the graphs of a group at its limits
HEAD = head_bytes(PAPER) / GB
SPARE = (memory.CONTEXT + memory.BUCKETS) / GB
LAYER = 16_384 * 2 * (15 * 3584 + 4 * 18944) / GB  # of a pack, computed again


def test_7b_on_eight_h200_is_the_published_arithmetic() -> None:
    """57 GB of weights, gradients and moments; 103 GB with the reference, the engine's copy and a full cache."""
    parts = 2 * 7.6 + 4 * 7.6 + 12 * 7.6 / 8
    assert parts == pytest.approx(57, abs=0.2)
    trainer = trainer_bytes(replace(PAPER, reference_offload=False), 8)
    assert trainer.held / GB - SPARE - 15.2 == pytest.approx(57, abs=0.2)
    cache = 64 * 4096 * 57_344 / GB
    assert cache == pytest.approx(15, abs=0.1)
    group = (1024 + 32 * 3072) * 196 * 1024 / GB  # the checkpointed inputs of one group at its limits
    assert group == pytest.approx(19.9, abs=0.1)
    assert activation_bytes(WHOLE, 8) / GB == pytest.approx(group)
    assert workspace_bytes(PAPER, 8) / GB == pytest.approx(LAYER + HEAD)
    # a quarter of that cache is counted: responses of mean length
    on_gpu = replace(WHOLE, reference_offload=False)
    engine = memory.ENGINE_WORKSPACE / GB - 0.75 * cache
    assert training_bytes(on_gpu, 8) / GB == pytest.approx(103 + engine + group + LAYER + HEAD + SPARE, abs=1)
    # a reference in host memory and those activations are never on the GPU together: the larger one counts
    assert training_bytes(WHOLE, 8) / GB == pytest.approx(training_bytes(on_gpu, 8) / GB - 15.2, abs=0.1)


def test_without_a_reference_none_is_counted() -> None:
    on_gpu = replace(PAPER, reference_offload=False)
    saved = training_bytes(on_gpu, 8) - training_bytes(replace(on_gpu, reference=False), 8)
    assert saved == pytest.approx(memory.weight_bytes(SHAPE_7B, "bfloat16"), rel=1e-6)


def test_an_engine_that_sleeps_counts_or_the_update_does() -> None:
    """14B under ZeRO 2 on 4 GPUs: the larger of a group's activations and the engine, not both."""
    work = replace(WHOLE, shape=SHAPE_14B, zero_stage=2, reference_offload=True)
    asleep = replace(work, engine_sleep=True)
    update, engine = activation_bytes(work, 4) + workspace_bytes(work, 4), engine_bytes(work, 4)
    assert training_bytes(work, 4) - training_bytes(asleep, 4) == pytest.approx(min(update, engine))
    assert training_bytes(replace(work, engine_sleep=None), 4) == training_bytes(asleep, 4)
    other = replace(work, vllm=False)  # transformers' engine cannot sleep
    assert training_bytes(replace(other, engine_sleep=None), 4) == training_bytes(other, 4)
    sampling = replace(asleep, zero_stage=3)  # ZeRO 3 gathers the weights for the engine
    assert training_bytes(sampling, 8) >= 2 * SHAPE_14B.total * 7 / 8 + engine_bytes(sampling, 8)


def test_gpus_that_share_an_engine_hold_a_part_of_its_weights() -> None:
    large = replace(PAPER, shape=SHAPE_14B, zero_stage=3)
    shared = replace(large, rollout_tensor_parallel=4)
    assert training_bytes(large, 8) - training_bytes(shared, 8) == pytest.approx(2 * SHAPE_14B.total * 3 / 4, rel=1e-6)


def test_stored_responses_need_no_engine() -> None:
    assert engine_bytes(replace(PAPER, rollout_rounds=0, vllm=False), 8) == 0


def test_activations_of_one_pack_where_no_graph_outlives_it() -> None:
    token = 196 * 1024
    assert activation_bytes(replace(PAPER, old_policy_pass=True), 8) == pytest.approx(16_384 * token)
    assert activation_bytes(replace(WHOLE, trained=8), 8) == pytest.approx((1024 + 8 * 3072) * token)
    every = 2 * 28 * (16 * 3584 + 4 * 18944)
    assert activation_bytes(replace(PAPER, checkpointing="none"), 8) == pytest.approx((1024 + 32 * 3072) * every)


def test_activations_of_a_usual_group_where_longer_ones_go_through_the_model_twice() -> None:
    token = 196 * 1024
    assert activation_bytes(PAPER, 8) == pytest.approx((256 + 32 * 768) * token)
    assert activation_bytes(replace(PAPER, trained=8), 8) == pytest.approx(16_384 * token)  # at least a pack
    selective = replace(PAPER, checkpointing="selective")  # its layers have no room
    assert activation_bytes(selective, 8) == activation_bytes(replace(selective, split_groups=False), 8)
    assert host_training_bytes(PAPER, 0) == host_training_bytes(WHOLE, 0)  # nor has a process without a GPU


def test_the_head_needs_more_than_a_small_workspace() -> None:
    """1,765 tokens' logits twice in float32 and once in bfloat16; the gradient in float32, a chunk's in bfloat16."""
    logits, weight = 1765 * 152_064, 3584 * 152_064
    assert head_bytes(PAPER) == pytest.approx(10 * logits + 6 * weight, rel=1e-3) == pytest.approx(5.95e9, rel=0.01)
    assert chunk_of(152_064, torch.device("cuda")) == 1765


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_what_layers_keep_is_the_estimate(monkeypatch: pytest.MonkeyPatch, mode: Checkpointing) -> None:
    """Counted in a real forward pass on packs: what autograd saves, and what selective checkpointing keeps."""
    estimate = token_bytes(small_shape(1), "float32", mode) / 4
    kept = (kept_numbers(monkeypatch, mode, 4) - kept_numbers(monkeypatch, mode, 2)) / 2
    assert (0.5 if mode == "none" else 0.95) * estimate <= kept <= 1.001 * estimate + STATISTICS[mode]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_layers_that_keep_activations_are_a_mixture_of_both_modes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    full, selective = (kept_numbers(monkeypatch, mode, 3) for mode in ("full", "selective"))
    assert kept_numbers(monkeypatch, "full", 3, count) == pytest.approx(full + count / 3 * (selective - full), rel=1e-3)


def test_as_many_layers_keep_activations_as_fit() -> None:
    """0.2 to 2.98 MB per token of a 7B; 0.8 MB with 6 of its 28 layers."""
    full, selective = (token_bytes(SHAPE_7B, "bfloat16", mode) for mode in ("full", "selective"))
    assert (full / 1e6, selective / 1e6) == (pytest.approx(0.2, abs=0.01), pytest.approx(2.98, abs=0.01))
    assert kept_layers(SHAPE_7B, "bfloat16", 1000, 1000 * 0.8e6) == 6
    for tokens in (1, 20_000, 99_328):
        for room in (0.0, 1e9, 2e10, 1e12):
            count = kept_layers(SHAPE_7B, "bfloat16", tokens, room)
            need = [tokens * (full + (selective - full) * n / 28) for n in (count, count + 1)]
            assert 0 <= count <= 28
            assert count == 0 or need[0] <= room
            assert count == 28 or need[1] > room


STATISTICS = {"none": 8, "selective": 8, "full": 0}  # numbers of attention (log-normalisers) and of norms, in float32


def small_shape(layers: int) -> Shape:
    return decoder(layers, 64, 4, 2, 16, 320, 64, tied=True)


def kept_numbers(monkeypatch: pytest.MonkeyPatch, mode: Checkpointing, layers: int, count: int = 0) -> float:
    """Float32 numbers per token that a model of `small_shape` keeps for its backward pass.

    `count`: layers that keep their activations where the mode is `full`.
    """
    config = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=320, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    checkpointed: list[int] = []  # numbers that selective checkpointing keeps, which autograd does not see
    rule = activation_checkpointing._keeps

    def counting(*given: Any) -> Any:
        policy = rule(*given)

        def decide(context: Any, *operation: Any, **kwargs: Any) -> CheckpointPolicy:
            decided: CheckpointPolicy = policy(context, *operation, **kwargs)
            if decided == CheckpointPolicy.MUST_SAVE:
                out = context.op_output
                checkpointed.append(sum(x.numel() for x in (out if isinstance(out, tuple) else [out])))
            return decided

        return decide

    monkeypatch.setattr(activation_checkpointing, "_keeps", counting)
    checkpoint_activations(model, mode)
    if mode == "full":
        each = token_bytes(small_shape(1), "float32", "selective") - token_bytes(small_shape(1), "float32", "full")
        room = layers * token_bytes(small_shape(1), "float32", "full") + (count + 0.5) * each
        assert ActivationRoom(model, small_shape(layers), "float32", room).use(1) == count
    responses = [np.arange(300, dtype=np.int32) % 60 for _ in range(4)]
    p = pack([list(range(20))] * 4, responses, [0] * 4, [0, 1, 2, 3])
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # by storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with packed(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        response_logprobs(model, p, 1.0)
    return (sum(t.untyped_storage().nbytes() for t in saved.values()) / 4 + sum(checkpointed)) / len(p.ids)


def test_sampling_under_zero_3_has_all_weights_on_each_gpu() -> None:
    large = replace(PAPER, shape=SHAPE_14B, zero_stage=3, old_policy_pass=True, reference_offload=True)
    bare = replace(
        large, vllm=False, lengths=Lengths.of_limits(1, 1, GENEROUS), pack_tokens=1, responses=1, trained=1, prompts=8
    )
    billions = SHAPE_14B.total / GB
    states = 14 * billions / 8 + 4 * billions / 8
    whole = max(2 * billions * 7 / 8, 2 * billions)  # gathered, or the reference: not both at once
    assert training_bytes(bare, 8) / GB == pytest.approx(states + whole + SPARE, abs=0.1)


def test_host_memory_of_the_7b_holds_eight_copies_that_are_being_read() -> None:
    """And the copy of the state that is being written: 107 GB."""
    assert 8 * 15.2 + 106.4 < host_training_bytes(PAPER, 8) / GB < 384
    assert host_sampling_bytes(PAPER, 1) / GB < 32


SIZES: dict[str, st.SearchStrategy[Any]] = {
    "parameters": st.floats(1e5, 1e11),
    "prompt_limit": st.integers(1, 4096),
    "response_limit": st.integers(1, 16384),
    "prompts": st.integers(1, 512),
    "responses": st.integers(1, 64),
    "steps": st.integers(1, 1000),
    "dtype": st.sampled_from(["bfloat16", "float32"]),
    "vllm": st.booleans(),
    "save_every": st.integers(1, 100),
    "zero_stage": st.sampled_from([0, 1, 2, 3]),
    "checkpointing": st.sampled_from(["none", "selective", "full"]),
    "threads": st.integers(1, 16),
    "old_policy_pass": st.booleans(),
    "reference_offload": st.sampled_from([None, False, True]),
    "engine_sleep": st.sampled_from([None, False, True]),
    "cache_bytes": st.sampled_from([1e9, 3e10, float("inf")]),
}


def training(parameters: float, prompt_limit: int, response_limit: int, **sizes: Any) -> TrainingWork:
    lengths = Lengths.of_limits(prompt_limit, response_limit, GENEROUS)
    return TrainingWork(shape=scaled(parameters), lengths=lengths, trained=sizes["responses"], **sizes)


def sampling(work: TrainingWork) -> SamplingWork:
    return SamplingWork(
        shape=work.shape, lengths=work.lengths, prompts=work.prompts, responses=work.responses, dtype=work.dtype,
        vllm=work.vllm, threads=work.threads,
    )  # fmt: skip


@given(
    sizes=st.fixed_dictionaries(SIZES),
    key=st.sampled_from(["parameters", "prompt_limit", "response_limit", "prompts", "responses", "steps"]),
    gpus=st.sampled_from([0, 1, 2, 4, 8, 16]),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_larger_work_never_needs_less(sizes: dict[str, Any], key: str, gpus: int) -> None:
    less, more = training(**sizes), training(**sizes | {key: 2 * sizes[key]})
    assert training_bytes(more, max(1, gpus)) >= training_bytes(less, max(1, gpus))
    assert host_training_bytes(more, gpus) >= host_training_bytes(less, gpus)
    assert segment_seconds(more, gpus, GENEROUS) >= segment_seconds(less, gpus, GENEROUS)
    less, more, one = sampling(less), sampling(more), min(1, gpus)
    assert sampling_bytes(more) >= sampling_bytes(less)
    assert host_sampling_bytes(more, one) >= host_sampling_bytes(less, one)
    assert sampling_seconds(more, one, H200, GENEROUS) >= sampling_seconds(less, one, H200, GENEROUS)


@given(sizes=st.fixed_dictionaries(SIZES), gpus=st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_more_gpus_need_no_more_memory_each_and_no_more_time(sizes: dict[str, Any], gpus: int) -> None:
    """Apart from communication time."""
    work, assumed = training(**sizes), replace(GENEROUS, gpu_link_rate=float("inf"))
    assert training_bytes(work, 2 * gpus) <= training_bytes(work, gpus)
    assert segment_seconds(work, 2 * gpus, assumed) <= segment_seconds(work, gpus, assumed)


@given(sizes=st.fixed_dictionaries(SIZES))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_higher_zero_stages_never_cost_memory(sizes: dict[str, Any]) -> None:
    needs = [training_bytes(training(**sizes | {"zero_stage": stage}), 8) for stage in range(4)]
    assert needs == sorted(needs, reverse=True)
