"""Norms and rotary embeddings with custom backward passes, in fewer passes over memory.

transformers writes both as chains of elementwise operations, and autograd keeps a tensor for nearly each of them: for a
norm its input and its result, in float32. Here a norm keeps its input and one number per token, a rotation only the
angles. Results differ from transformers' by rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

# Families whose `forward` and `apply_rotary_pos_emb` compute what is written here; others keep their own
FAMILIES = ("llama", "qwen2", "qwen3")


class _Norm(torch.autograd.Function):
    """x [..., h] -> w x / sqrt(mean(x^2) + eps), computed in float32 or wider, in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, norm: Any) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale.add_(norm.variance_epsilon).rsqrt_()
        ctx.save_for_backward(x, scale)
        ctx.norm = norm  # not its weight, which under ZeRO 3 is whole only while the module runs
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        weight, (g,) = ctx.norm.weight, grads
        wide = x.to(scale.dtype) * scale  # before the weight, of mean square 1
        g_weight = None
        if ctx.needs_input_grad[1]:
            g_weight = (g * wide).flatten(0, -2).sum(0).to(weight.dtype)
        g = (g * weight).to(scale.dtype)
        shared = torch.linalg.vecdot(g, wide)[..., None].div_(x.shape[-1])
        return wide.mul_(shared).sub_(g).mul_(scale.neg()).to(x.dtype), g_weight, None


def _forward(norm: Any, x: Tensor) -> Tensor:
    result: Tensor = _Norm.apply(x, norm.weight, norm)
    return result


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Halves (a, b) of x [..., d] -> (a cos - sign b sin, b cos + sign a sin)."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


class _Rotation(torch.autograd.Function):
    """Rotary position embedding: a rotation; its gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return _turned(grads[0], *ctx.saved_tensors, -1), None, None


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Replaces transformers' `apply_rotary_pos_emb`: q [b, H, M, d], k [b, G, M, d], cos and sin [b, M, d]."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)


@contextmanager
def fused(*models: Any) -> Iterator[None]:
    """Let models of FAMILIES use the functions above; keep the context open until the last backward pass is done."""
    norms, modules = [], {}
    for model in models:
        if model.config.model_type not in FAMILIES:
            continue
        module = sys.modules[type(model).__module__]
        modules[module] = module.apply_rotary_pos_emb
        norms += [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    for norm in norms:
        norm.forward = partial(_forward, norm)
    for module in modules:
        module.apply_rotary_pos_emb = rotated
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
        for module, original in modules.items():
            module.apply_rotary_pos_emb = original
