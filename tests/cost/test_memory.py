"""Memory of a GPU and of a node: against published arithmetic, and monotone in every size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from srt.config.train import Checkpointing
from srt.cost import memory
from srt.cost.lengths import Lengths
from srt.cost.memory import (
    ACTIVATIONS,
    activation_bytes,
    engine_bytes,
    head_bytes,
    host_sampling_bytes,
    host_training_bytes,
    sampling_bytes,
    trainer_bytes,
    training_bytes,
)
from srt.cost.parameters import GENEROUS
from srt.cost.seconds import sampling_seconds, segment_seconds
from srt.cost.shapes import scaled
from srt.cost.work import SamplingWork, TrainingWork
from srt.packing.activation_checkpointing import checkpoint_activations, expensive_operations
from srt.packing.logprobs import chunk_of, packed, response_logprobs
from srt.packing.pack import pack
from support.paper_work import GB, H200, PAPER, SHAPE_7B, SHAPE_14B

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
    assert activation_bytes(PAPER, 8) / GB == pytest.approx(group + LAYER)
    # a quarter of that cache is counted: responses of mean length
    on_gpu = replace(PAPER, reference_offload=False)
    engine = memory.ENGINE_WORKSPACE / GB - 0.75 * cache
    assert training_bytes(on_gpu, 8) / GB == pytest.approx(103 + engine + group + LAYER + HEAD + SPARE, abs=1)
    # a reference in host memory and those activations are never on the GPU together: the larger one counts
    assert training_bytes(PAPER, 8) / GB == pytest.approx(training_bytes(on_gpu, 8) / GB - 15.2, abs=0.1)


def test_without_a_reference_none_is_counted() -> None:
    on_gpu = replace(PAPER, reference_offload=False)
    saved = training_bytes(on_gpu, 8) - training_bytes(replace(on_gpu, reference=False), 8)
    assert saved == pytest.approx(memory.weight_bytes(SHAPE_7B, "bfloat16"), rel=1e-6)


def test_an_engine_that_sleeps_counts_or_the_update_does() -> None:
    """14B under ZeRO 2 on 4 GPUs: the larger of a group's activations and the engine, not both."""
    work = replace(PAPER, shape=SHAPE_14B, zero_stage=2, reference_offload=True)
    asleep = replace(work, engine_sleep=True)
    update, engine = activation_bytes(work, 4) + head_bytes(work), engine_bytes(work, 4)
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
    token, layer = 196 * 1024, GB * LAYER
    assert activation_bytes(replace(PAPER, old_policy_pass=True), 8) == pytest.approx(16_384 * token + layer)
    assert activation_bytes(replace(PAPER, trained=8), 8) == pytest.approx((1024 + 8 * 3072) * token + layer)
    every = 2 * 28 * (16 * 3584 + 4 * 18944)
    assert activation_bytes(replace(PAPER, checkpointing="none"), 8) == pytest.approx((1024 + 32 * 3072) * every)


def test_the_head_needs_more_than_a_small_workspace() -> None:
    """1,765 tokens' logits twice in float32 and once in bfloat16; the gradient in float32, a chunk's in bfloat16."""
    logits, weight = 1765 * 152_064, 3584 * 152_064
    assert head_bytes(PAPER) == pytest.approx(10 * logits + 6 * weight, rel=1e-3) == pytest.approx(5.95e9, rel=0.01)
    assert chunk_of(152_064, torch.device("cuda")) == 1765


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_what_layers_keep_is_less_than_the_estimate_and_not_much_less(mode: Checkpointing) -> None:
    """Counted in a real forward pass on packs: what autograd saves, and what selective checkpointing keeps."""
    hidden, intermediate = ACTIVATIONS[mode]
    estimate = hidden * 64 + intermediate * 320
    kept = (kept_numbers(mode, 4) - kept_numbers(mode, 2)) / 2
    assert 0.5 * estimate <= kept <= 1.001 * estimate


def kept_numbers(mode: Checkpointing, layers: int) -> float:
    """Float32 numbers per token that a model with 64 hidden and 320 intermediate values keeps for its backward pass."""
    config = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=320, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    checkpoint_activations(model, mode)
    responses = [np.arange(300, dtype=np.int32) % 60 for _ in range(4)]
    p = pack([list(range(20))] * 4, responses, [0] * 4, [0, 1, 2, 3])
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # by storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    outputs = Outputs(expensive_operations() if mode == "selective" else set())
    with packed(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), outputs:
        response_logprobs(model, p, 1.0)
    return (sum(t.untyped_storage().nbytes() for t in saved.values()) / 4 + outputs.numbers) / len(p.ids)


class Outputs(TorchDispatchMode):
    """Counts the numbers that some operations return."""

    def __init__(self, operations: set[Any]) -> None:
        super().__init__()
        self.operations, self.numbers = operations, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in self.operations:
            every = found if isinstance(found, tuple | list) else [found]
            self.numbers += sum(x.numel() for x in every if isinstance(x, torch.Tensor))
        return found


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
