"""Log-probs and gradients of packs against transformers' forward pass (SDPA) of one sequence at a time in float32.

Two layers of the model's width are enough: depth adds rounding, no code. The rows have grouped-query attention, a
shared prompt, responses of one token, a group over two packs, and random lengths from 1 to the size's longest.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from srt.cost.hardware import synchronize
from srt.gpu_check.parts import Machine, require
from srt.models.checkpoint import load_model
from srt.models.plain_pass import small_copy
from srt.packing.activation_checkpointing import checkpoint_activations
from srt.packing.pack import pack
from srt.training.pack_probe import GRADIENT_BOUND, LOGPROB_BOUND, Rows, packed_pass, plain_pass, worst_gradient

PLAIN = "sdpa"
MODES = ("none", "selective", "full")  # of activation checkpointing
ROWS = 12  # of the large group
# 16 bits: packs may be this many times farther from float32 than the plain pass in 16 bits is, plus the second number
FACTOR, LOGPROB_MORE, GRADIENT_MORE = 2.0, 0.01, 0.02
REPEATS = 3  # of a pass whose gradient is compared with itself


def rows_of(machine: Machine) -> Rows:
    """Three groups: one over two packs, one of one-token responses, one of a single row with a prompt of one token."""
    rng, longest = np.random.default_rng(7), machine.size.longest
    lengths = [1, longest, *rng.integers(1, longest + 1, ROWS - 2).tolist()]
    prompt = max(2, longest // 8)
    groups = ((prompt, lengths), (prompt // 2, (1, 1, 2)), (1, (int(rng.integers(1, longest + 1)),)))
    budget = prompt + (sum(lengths) * 2) // 3
    rows = Rows.random(machine.size.vocabulary, groups, budget)
    assert len(rows.packs()) >= 3, "the large group is cut"
    return rows


def whole_model(machine: Machine) -> Any:
    """The random model, of which parts of two layers are compared."""
    return load_model(machine.model, machine.dtype, machine.device)[0]


def float32(machine: Machine) -> dict[str, Any]:
    """In float32: packs on padded rectangles."""
    rows, figures = rows_of(machine), {}
    whole = whole_model(machine)
    wanted, wanted_grads = plain_pass(small_copy(whole, torch.float32), rows, PLAIN)
    for mode in MODES:
        model = small_copy(whole, torch.float32)
        checkpoint_activations(model, mode)
        found, grads = packed_pass(model, rows)
        logprob = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        name, error = worst_gradient(grads, wanted_grads)
        figures |= {f"logprob_{mode}": logprob, f"gradient_{mode}": error}
        require(logprob <= LOGPROB_BOUND, f"{mode}: a log-prob is {logprob:.2g} nats off, more than {LOGPROB_BOUND:g}")
        require(
            error <= GRADIENT_BOUND, f"{mode}: the gradient of {name} is {error:.2g} off, more than {GRADIENT_BOUND:g}"
        )
    said = f"log-probs within {max(figures[f'logprob_{m}'] for m in MODES):.1g} nats (bound {LOGPROB_BOUND:g}), "
    said += f"gradients within {max(figures[f'gradient_{m}'] for m in MODES):.1g} (bound {GRADIENT_BOUND:g})"
    return {"said": said, "tokens": sum(len(r) for r in rows.responses), **figures}


def bfloat16(machine: Machine) -> dict[str, Any]:
    """In bfloat16, where a GPU takes its variable-length kernel: no farther from float32 than the plain pass is."""
    rows = rows_of(machine)
    whole = whole_model(machine)
    wanted, wanted_grads = plain_pass(small_copy(whole, torch.float32), rows, PLAIN)
    plain, plain_grads = plain_pass(small_copy(whole, torch.bfloat16), rows, PLAIN)
    own, own_grad = _mean_difference(plain, wanted), worst_gradient(plain_grads, wanted_grads)[1]
    figures: dict[str, Any] = {"plain_logprob": own, "plain_gradient": own_grad}
    del plain, plain_grads
    for mode in MODES:
        model = small_copy(whole, torch.bfloat16)
        checkpoint_activations(model, mode)
        found, grads = packed_pass(model, rows)
        logprob, (name, error) = _mean_difference(found, wanted), worst_gradient(grads, wanted_grads)
        figures |= {f"logprob_{mode}": logprob, f"gradient_{mode}": error}
        bound, grad_bound = FACTOR * own + LOGPROB_MORE, FACTOR * own_grad + GRADIENT_MORE
        require(logprob <= bound, f"{mode}: log-probs are {logprob:.2g} nats off on average, more than {bound:.2g}")
        require(error <= grad_bound, f"{mode}: the gradient of {name} is {error:.2g} off, more than {grad_bound:.2g}")
    worst = max(figures[f"gradient_{mode}"] for mode in MODES)
    said = f"gradients within {worst:.2g} of float32 (the plain pass: {own_grad:.2g}), log-probs within "
    said += f"{max(figures[f'logprob_{mode}'] for mode in MODES):.2g} nats on average (the plain pass: {own:.2g})"
    return {"said": said, **figures, **repeated(machine, small_copy(whole, torch.bfloat16), rows)}


def repeated(machine: Machine, model: Any, rows: Rows) -> dict[str, Any]:
    """Whether the same pass gives the same gradient twice, and what gathering keys and values costs.

    The backward pass of `index_select` on a GPU adds with atomics, in an order that differs from run to run.
    """
    _, first = packed_pass(model, rows)
    apart = 0.0
    for _ in range(REPEATS - 1):
        _, again = packed_pass(model, rows)
        apart = max(apart, worst_gradient(again, first)[1])
    whole = _seconds(lambda: packed_pass(model, rows), machine.device)
    config, part = model.config, max(rows.packs(), key=len)
    attention = pack(rows.prompts, rows.responses, rows.group, part, machine.device, torch.bfloat16).attention
    gather = attention.varlen[2] if attention.varlen else torch.arange(attention.tokens, device=machine.device)
    head_size = config.hidden_size // config.num_attention_heads
    keys = torch.randn(
        attention.tokens, config.num_key_value_heads, head_size, dtype=torch.bfloat16, device=machine.device,
        requires_grad=True,
    )  # fmt: skip
    selected = keys.index_select(0, gather)
    upstream = torch.ones_like(selected)
    once = _seconds(lambda: torch.autograd.grad(selected, keys, upstream, retain_graph=True), machine.device)
    share = 2 * config.num_hidden_layers * once * len(rows.packs()) / whole if whole else math.nan
    return {"repeat_gradient": apart, "gather_backward_share": share}


def _mean_difference(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    apart = torch.cat([(a.float() - b.float()).abs() for a, b in zip(found, wanted, strict=True)]).mean()
    return float(apart) if bool(apart.isfinite()) else math.inf


def _seconds(work: Any, device: torch.device) -> float:
    """Seconds of a second call: the first one starts kernels."""
    work()
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began
