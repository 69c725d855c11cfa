"""Norms and rotary embeddings against those of transformers: values, gradients, models that are left unchanged."""

from __future__ import annotations

import sys

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from srt.packing.fused_layers import _Norm, fused, rotated
from support.tiny_models import double_norm

SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
}


def tiny(family: str, dtype: torch.dtype) -> torch.nn.Module:
    kind, config = FAMILIES[family]
    torch.manual_seed(0)
    model = kind(config(**SHAPE)).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # they start at 1 and 0
                p.add_(0.2 * torch.randn_like(p))
    return model


def found(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Logits and gradients."""
    ids = torch.arange(24).view(2, 12) % 40
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    (logits.float().log_softmax(-1).square().mean()).backward()
    return {"logits": logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()}


def worst(values: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    """Largest relative error of a tensor."""
    return max(float((values[n].double() - truth[n].double()).norm() / truth[n].double().norm()) for n in truth)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "wide"), [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)])
def test_a_model_is_what_transformers_makes_of_it(family, dtype, wide, monkeypatch):
    """Logits and gradients are as close to those in a wider type as transformers' own."""
    model = tiny(family, dtype)
    theirs = found(model)
    with fused(model):
        ours = found(model)
    monkeypatch.setattr(type(model.model.norm), "forward", double_norm)
    truth = found(model.to(wide))
    assert worst(ours, theirs) > 0  # at least one module was replaced
    assert worst(ours, truth) <= 1.5 * worst(theirs, truth)


def test_gradients_by_finite_differences():
    torch.manual_seed(1)
    norm = type("Norm", (), {"variance_epsilon": 1e-3})()
    x, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 6), (6,)))

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        norm.weight = weight
        return _Norm.apply(x, weight, norm)

    assert torch.autograd.gradcheck(normed, (x, weight))
    angle = torch.randn(1, 5, 3, dtype=torch.float64).repeat(1, 1, 2)
    q, k = (torch.randn(1, h, 5, 6, dtype=torch.float64, requires_grad=True) for h in (4, 2))
    assert torch.autograd.gradcheck(lambda q, k: rotated(q, k, angle.cos(), angle.sin()), (q, k))


def test_less_is_kept_for_the_backward_pass():
    """In bfloat16, where transformers' norms keep float32 copies."""
    kept = []
    model = tiny("qwen3", torch.bfloat16)

    def pack(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    for context in (fused(), fused(model)):
        storages: dict[int, int] = {}
        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            logits = model(input_ids=torch.arange(32)[None], use_cache=False).logits
        kept.append(sum(storages.values()))
        del logits
    assert kept[1] < 0.8 * kept[0]


def test_afterwards_and_in_other_families_everything_is_transformers():
    model, module = tiny("qwen2", torch.float32), sys.modules[Qwen2ForCausalLM.__module__]
    before, rotary = found(model), module.apply_rotary_pos_emb
    with pytest.raises(KeyboardInterrupt), fused(model, tiny("qwen2", torch.float32)):
        assert module.apply_rotary_pos_emb is rotated
        raise KeyboardInterrupt
    assert module.apply_rotary_pos_emb is rotary
    assert all(torch.equal(x, before[name]) for name, x in found(model).items())
    gemma = GemmaForCausalLM(GemmaConfig(**SHAPE))  # its norm multiplies by 1 + weight
    before = found(gemma)
    with fused(gemma):
        assert all(torch.equal(x, before[name]) for name, x in found(gemma).items())
