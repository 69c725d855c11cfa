"""Log-probabilities and entropies of response tokens, with gradient, from one packed forward pass.

Prompt tokens are skipped before the head. Its logits exist only for a chunk of tokens at a time, and the backward pass
computes them again: 2 h V of the 8 N FLOP per token, for 4 V bytes of memory saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srt.cost.memory import HEAD_LOGITS
from srt.packing.attention import ATTENTION
from srt.packing.fused_layers import fused
from srt.packing.pack import Pack

# Logits that exist at a time: few on a CPU, so that they stay in its cache; many on a GPU
LOGITS = {"cpu": 2**19, "cuda": HEAD_LOGITS}
# Tokens at a time at least: with fewer, reading the head's weight takes longer than multiplying with it. A vocabulary
# of 49,152 and 10 tokens at a time took 1.9 times as long as with 128 on a CPU.
LEAST_TOKENS = 128


def chunk_of(vocabulary: int, device: torch.device) -> int:
    """Response tokens whose logits exist at a time."""
    return max(LEAST_TOKENS, LOGITS["cpu" if device.type == "cpu" else "cuda"] // vocabulary)


@dataclass(frozen=True)
class LogitScale:
    """What a model does to the head's values y: logits = scale y, or cap tanh(scale y / cap) with a `cap`."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitScale:
        """That of Granite (`logits_scaling`), Cohere (`logit_scale`) and Gemma (`final_logit_softcapping`)."""
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))


UNSCALED = LogitScale()


class _HeadFunction(torch.autograd.Function):
    """(hidden [K, h], weight [V, h]) -> log p(token) [K] and entropy [K] of softmax(z), z = logits / temperature.

    In float32. With p the distribution, dlogp/dz_v = 1[v = token] - p_v and dH/dz_v = -p_v (log p_v + H). Without a
    cap, the temperature is divided by the scale. With cap c, z = c tanh(scale y / c) / temperature, so that
    dz/dy = scale (1 - tanh^2) / temperature. Gradients of the weight are summed over chunks in float32, whatever the
    weight's type.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, temperature: float, head: Any,
        logits: LogitScale = UNSCALED, certainty: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if logits.cap is None:
            temperature = temperature / logits.scale
        logps, entropies, norms = [], [], []
        chunk = chunk_of(len(weight), hidden.device)
        for s in range(0, len(hidden), chunk):
            z = _scores(hidden[s : s + chunk], weight, bias, temperature, logits)
            top = z.amax(-1, keepdim=True)
            z -= top
            chosen = z.gather(-1, token[s : s + chunk, None])[:, 0]
            e = z.exp()
            total = e.sum(-1)
            norm = total.log()
            logps.append(chosen - norm)
            entropies.append(norm - torch.linalg.vecdot(e, z) / total)
            norms.append(norm + top[:, 0])
            if certainty is not None:
                certainty.append(norm - z.mean(-1) - math.log(len(weight)))
        logp, entropy, norm = torch.cat(logps), torch.cat(entropies), torch.cat(norms)
        ctx.save_for_backward(hidden, token, norm, entropy)
        # the module and not its weight, which under ZeRO 3 is whole only while the module runs
        ctx.head, ctx.temperature, ctx.logits = head, temperature, logits
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        hidden, token, norm, entropy = ctx.saved_tensors
        g_logp, g_entropy = grads
        weight, bias, cap = ctx.head.weight, getattr(ctx.head, "bias", None), ctx.logits.cap
        wide = torch.promote_types(weight.dtype, torch.float32)
        g_hidden = torch.empty_like(hidden)
        g_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if ctx.needs_input_grad[1] else None
        g_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if ctx.needs_input_grad[2] else None
        chunk = chunk_of(len(weight), hidden.device)
        for s in range(0, len(hidden), chunk):
            part = slice(s, s + chunk)
            z = _scores(hidden[part], weight, bias, ctx.temperature, ctx.logits)
            slope = None if cap is None else 1.0 - (z * (ctx.temperature / cap)).square_()
            z.sub_(norm[part, None])  # log p
            p = z.exp()
            g = torch.zeros_like(norm[part]) if g_logp is None else g_logp[part]
            if g_entropy is None:
                dz = p.mul_(-g[:, None])
            else:
                z.add_(entropy[part, None]).mul_(-g_entropy[part, None]).sub_(g[:, None])
                dz = p.mul_(z)
            dz.scatter_add_(-1, token[part, None], g[:, None])
            if slope is not None:
                dz.mul_(slope).mul_(ctx.logits.scale)
            dz = dz.div_(ctx.temperature).to(hidden.dtype)
            torch.mm(dz, weight.detach(), out=g_hidden[part])
            if g_weight is not None:
                g_weight.addmm_(dz.T, hidden[part]) if wide == dz.dtype else g_weight.add_(dz.T @ hidden[part])
            if g_bias is not None:
                g_bias.add_(dz.sum(0, dtype=wide))
        return (
            g_hidden,
            None if g_weight is None else g_weight.to(weight.dtype),
            None if g_bias is None else g_bias.to(bias.dtype),
            None, None, None, None, None,
        )  # fmt: skip


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, logits: LogitScale) -> Tensor:
    """z of `_HeadFunction`, a new tensor."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if logits.cap is not None:
        z = z.div_(logits.cap / logits.scale).tanh_().mul_(logits.cap)
    return z if temperature == 1.0 else z / temperature


def head_logprobs(
    head: Any, hidden: Tensor, token: Tensor, temperature: float, certainty: list[Tensor] | None = None,
    logits: LogitScale = UNSCALED,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probs and entropies [K] of `token` [K], float32 or wider.

    They are those of softmax(logits / temperature), where `logits` says what becomes of head(hidden [K, h]).

    Args:
        certainty: gets the self-certainties of the tokens appended (see `response_statistics`), [K] in parts.
    """
    result: tuple[Tensor, Tensor] = _HeadFunction.apply(
        hidden, head.weight, getattr(head, "bias", None), token, temperature, head, logits, certainty
    )
    return result


@contextmanager
def packed(*models: Any) -> Iterator[None]:
    """Let models read packs and their heads return log-probs; keep the context open until the last backward pass.

    The head's own `forward` is replaced, as ZeRO 3 gathers the head's weight when that module is called.
    """
    before = []
    for m in models:
        head = m.get_output_embeddings()
        before.append((m, m.config._attn_implementation, head))
        m.config._attn_implementation = ATTENTION
        head.forward = partial(head_logprobs, head, logits=LogitScale.of(m.config))
    try:
        with fused(*models):
            yield
    finally:
        for m, name, head in before:
            m.config._attn_implementation = name
            del head.forward


def response_logprobs(model: Any, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies [b, R] of the response tokens of a pack; 0 beyond each response (`Pack.mask`).

    Call it inside `packed(model)`. Logits are divided by `temperature`, as when sampling.
    """
    return _by_row(pack, *_at_tokens(model, pack, temperature, None))  # type: ignore[return-value]


def response_statistics(model: Any, pack: Pack, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `response_logprobs`, and the self-certainty [b, R] of each token, without gradient.

    Self-certainty is KL(U || p), U uniform over the V words: -log V - mean_v log p(v) (Zhao et al. 2025, Eq. 2).
    """
    certainty: list[Tensor] = []
    both = _at_tokens(model, pack, temperature, certainty)
    return _by_row(pack, *both, torch.cat(certainty))  # type: ignore[return-value]


def _at_tokens(model: Any, pack: Pack, temperature: float, certainty: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    hidden = model.get_decoder()(
        input_ids=pack.ids[None], position_ids=pack.position[None], use_cache=False, packing=pack.attention
    ).last_hidden_state[0]
    found: tuple[Tensor, Tensor] = model.get_output_embeddings()(
        hidden.index_select(0, pack.predict), pack.token, temperature, certainty
    )
    return found


def _by_row(pack: Pack, *values: Tensor) -> tuple[Tensor, ...]:
    mask = pack.mask
    return tuple(torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_scatter(mask, x) for x in values)
