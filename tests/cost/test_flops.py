"""FLOPs against an explicit parameter count and torch's own counter; peak and measured rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3Config

from srt.common.errors import SrtError
from srt.cost import hardware
from srt.cost.flops import Tokens, count_tokens, forward_flops, recomputed_flops, update_flops
from srt.cost.hardware import measured_rate, mfu, peak_flops
from srt.cost.shapes import SHAPES, Shape, decoder
from srt.packing.activation_checkpointing import checkpoint_activations
from srt.packing.logprobs import packed, response_logprobs
from srt.packing.pack import pack
from support.work import Clock

HIDDEN, HEADS, KV, LAYERS, WIDE, VOCAB = 32, 4, 2, 3, 48, 70
HEAD_SIZE = HIDDEN // HEADS
SMALL = Shape(body=100, head=10, total=120, attention=4, kv=2, hidden=3, intermediate=5, layers=1)


def forward(
    shape: Shape, prompts: Sequence[float], responses: Sequence[float], group: Sequence[int] | None = None
) -> float:
    """FLOPs of one forward pass over these sequences."""
    return forward_flops(shape, count_tokens(prompts, responses, group))


def tiny(tied: bool = True) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=HIDDEN, num_attention_heads=HEADS, num_key_value_heads=KV, num_hidden_layers=LAYERS,
        intermediate_size=WIDE, vocab_size=VOCAB, tie_word_embeddings=tied, max_position_embeddings=64,
    )  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_shape_of_a_tiny_qwen2_is_the_explicit_count(tied):
    layer = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV * HEAD_SIZE + 3 * HIDDEN * WIDE  # q and o, k and v, gate/up/down
    small = HIDDEN + 2 * KV * HEAD_SIZE + 2 * HIDDEN  # biases of q, k and v, and two norms
    embeddings = VOCAB * HIDDEN * (1 if tied else 2)
    assert Shape.of(tiny(tied)) == Shape(
        body=LAYERS * layer, head=VOCAB * HIDDEN, total=LAYERS * (layer + small) + HIDDEN + embeddings,
        attention=LAYERS * HIDDEN, kv=2 * LAYERS * KV * HEAD_SIZE, hidden=LAYERS * HIDDEN,
        intermediate=LAYERS * WIDE, layers=LAYERS,
    )  # fmt: skip
    assert replace(Shape.of(tiny(tied)), total=0) == replace(
        decoder(LAYERS, HIDDEN, HEADS, KV, HEAD_SIZE, WIDE, VOCAB, tied), total=0
    )


def test_shape_of_the_paper_s_model_is_the_known_count():
    """Qwen2.5-7B: 6.53 B in the body and 0.545 B in the head take part in matrix products."""
    shape = Shape.of(
        Qwen2Config(
            hidden_size=3584, num_attention_heads=28, num_key_value_heads=4, num_hidden_layers=28,
            intermediate_size=18944, vocab_size=152064, tie_word_embeddings=False,
        )
    )  # fmt: skip
    known = SHAPES["Qwen/Qwen2.5-Math-7B"]
    assert replace(shape, total=known.total) == known and shape.total == pytest.approx(known.total, rel=1e-3)
    assert shape.head == 3584 * 152064 and shape.attention == 28 * 3584
    assert shape.body == pytest.approx(6.53e9, rel=2e-3)
    # attention adds 1.2 % to the body and head at 850 tokens per sequence, 180 of them the prompt
    without = replace(shape, attention=0)
    assert forward(shape, [180], [670]) / forward(without, [180], [670]) - 1 == pytest.approx(0.012, abs=0.001)


def test_head_size_that_is_not_hidden_over_heads_counts():
    config = Qwen3Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_hidden_layers=2,
        intermediate_size=48, vocab_size=70,
    )  # fmt: skip
    shape = Shape.of(config)
    assert shape.attention == 2 * 4 * 16
    assert shape.body == 2 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 48)


def counted(model: Qwen2ForCausalLM, prompt: int, response: int) -> tuple[int, int]:
    """FLOPs of forward and backward by torch's counter, without the rotary table's products of position and frequency.

    Torch counts all s² scores of the eager attention, the masked half included.
    """
    ids = torch.arange(prompt + response)[None] % VOCAB

    def forward() -> torch.Tensor:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        return model.lm_head(hidden[:, prompt - 1 : -1]).log_softmax(-1)

    with FlopCounterMode(display=False) as counter:
        out = forward()
        ahead = counter.get_total_flops()
    rotary = sum(sum(n.values()) for name, n in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    return ahead - rotary, counter.get_total_flops()


@pytest.mark.parametrize(("prompt", "response"), [(5, 9), (1, 1), (12, 20)])
def test_forward_and_update_equal_torch_s_counter_up_to_the_masked_half(prompt, response):
    model = Qwen2ForCausalLM._from_config(tiny(), attn_implementation="eager")
    shape, s = Shape.of(tiny()), prompt + response
    masked = 2 * shape.attention * s * (s - 1)  # torch counts 4 d s², and 2 d s (s + 1) are needed
    ahead, back = counted(model, prompt, response)
    tokens = count_tokens([prompt], [response])
    assert forward_flops(shape, tokens) == ahead - masked
    assert update_flops(shape, tokens, reference=False) == ahead + back - 3 * masked
    assert update_flops(shape, tokens) == 4 * forward_flops(shape, tokens)
    assert update_flops(shape, tokens, old_policy=True) == 5 * forward_flops(shape, tokens)


def test_what_a_backward_pass_computes_again_is_torch_s_count() -> None:
    """On a pack, as the trainer does: all layers but their last product, or none of the products at all."""
    counts = {}
    for mode in ("none", "selective", "full"):
        model = Qwen2ForCausalLM._from_config(tiny())
        checkpoint_activations(model, mode)
        p = pack([[1, 2, 3]] * 2, [np.arange(9, dtype=np.int32), np.arange(4, dtype=np.int32)], [0, 0], [0, 1])
        with packed(model):
            logprobs, _ = response_logprobs(model, p, 1.0)
            with FlopCounterMode(display=False) as counter:
                logprobs.sum().backward()
        counts[mode] = counter.get_total_flops()
    products = replace(Shape.of(tiny()), attention=0, head=0)  # the attention of a CPU is not counted
    again = recomputed_flops(products, Tokens(len(p.ids), 0, 0), 1.0)
    assert (counts["full"] - counts["none"], counts["selective"] - counts["none"]) == (again, 0)


def test_sequences_add_up_and_padding_does_not_count():
    assert forward(SMALL, [2, 5], [3, 1]) == forward(SMALL, [2], [3]) + forward(SMALL, [5], [1])
    assert forward(SMALL, [2], [3]) == 2 * 100 * 5 + 2 * 10 * 3 + 2 * 4 * 5 * 6
    assert forward_flops(SMALL, count_tokens([2], [3]).times(7)) == 7 * forward(SMALL, [2], [3])
    with pytest.raises(ValueError, match="zip"):
        count_tokens([2, 5], [3])


def test_a_shared_prompt_counts_once():
    each, shared = forward(SMALL, [6, 6, 2], [3, 1, 5]), forward(SMALL, [6, 6, 2], [3, 1, 5], [0, 0, 1])
    assert each - shared == forward(replace(SMALL, head=0), [6], [0])
    assert forward(SMALL, [6, 6, 2], [3, 1, 5], [0, 1, 2]) == each


def test_mixtures_of_experts_are_refused():
    with pytest.raises(SrtError, match="mixtral: FLOPs of mixtures of experts"):
        Shape.of(MixtralConfig())


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4),
        ("NVIDIA H200 NVL", "bfloat16", 835.5),
        ("NVIDIA H100 80GB HBM3", "float16", 989.4),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756.5),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312.0),
    ],
)
def test_peaks_by_device_name(name, dtype, teraflops):
    assert peak_flops(name, dtype) == teraflops * 1e12


def test_unknown_peaks_give_no_share():
    for device, dtype in ((torch.device("cpu"), "bfloat16"), ("NVIDIA H200", "float32"), ("a new one", "bfloat16")):
        assert math.isnan(peak_flops(device, dtype)) and math.isnan(mfu(1e12, 1.0, peak_flops(device, dtype)))
    assert mfu(2e12, 4.0, 1e12) == 0.5 and math.isnan(mfu(1.0, 0.0, 1e12))


def test_the_measured_rate_is_that_of_the_fastest_product(monkeypatch):
    """By a clock that is read before and after each product; the products take 9 (not counted), 5, 2, 4, 3, 6 s."""
    products, clock = iter([9, 5, 2, 4, 3, 6, 1]), Clock()

    def product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        clock.now += next(products)

    monkeypatch.setattr(hardware.time, "perf_counter", clock)
    monkeypatch.setattr(hardware.torch, "mm", product)
    assert measured_rate("cpu", torch.float32, size=256, seconds=15.0) == 2 * 256**3 / 2
    assert next(products) == 1, "no product began after 15 s"


@pytest.mark.gpu
def test_the_rate_of_a_gpu_lies_below_its_peak():
    device = torch.device("cuda", 0)
    rate, peak = measured_rate(device, torch.bfloat16), peak_flops(device, torch.bfloat16)
    assert rate > 0 and (math.isnan(peak) or rate < 1.05 * peak)
