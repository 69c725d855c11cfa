"""Attention over a pack: each token sees what precedes it in its own sequence: its prompt, its response.

On a GPU this is one call of PyTorch's variable-length kernel, which takes 16-bit numbers only. Elsewhere (on a CPU, in
float32) sequences of about the same length are padded to one rectangle; linear layers never see that padding. Soft caps
and sinks, which the kernel does not have, are computed on the rectangles on a GPU too.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from srt.common.errors import SrtError
from srt.rollout.attention_arguments import refuse_unknown

ATTENTION = "srt_packed"
SAME_LENGTH = 0.75  # a bucket ends before a row shorter than this share of its longest row
BUCKET = 16  # rows that a bucket has at least
KERNEL_TYPES = (torch.bfloat16, torch.float16)  # that the variable-length kernel takes

KINDS = {"full_attention", "sliding_attention"}  # of layers (`layer_types`) that a pack reproduces


@dataclass(frozen=True)
class Bucket:
    """Rows of about the same length, padded to one rectangle for attention.

    `query` [b, L] and `key` [b, S] are places in the pack (0 where padded), `real` [b, L] is False where a query is
    padding; `query_position` [b, L] and `key_position` [b, S] are positions in the sequence. `bias` [b, 1, L, S] is 0
    where a query sees a key and -inf elsewhere.
    """

    query: Tensor
    real: Tensor
    key: Tensor
    query_position: Tensor
    key_position: Tensor
    bias: Tensor
    _wide: dict[tuple[int, int | None], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def wide(self, shared: int, window: int | None = None) -> Tensor:
        """`bias` repeated for `shared` query heads along the query axis [b, 1, shared L, S]; kept for all layers.

        With a `window`, a query sees only the last `window` keys of its sequence, its own included.
        """
        if (shared, window) not in self._wide:
            bias = self.bias
            if window is not None:
                far = self.query_position[:, :, None] - self.key_position[:, None, :] >= window
                bias = bias.masked_fill(far[:, None], float("-inf"))
            self._wide[shared, window] = bias.repeat(1, 1, shared, 1)
        return self._wide[shared, window]


@dataclass(frozen=True)
class Layout:
    """Where prompts and responses are in a pack: P distinct prompts, b responses (without their last tokens).

    `prompt_start`, `prompt_length` [P]; `start`, `length` [b] of each response; `own_prompt_start`,
    `own_prompt_length` [b] of the prompt that it continues. `prefix`: so many tokens at the pack's start begin every
    prompt; `prompt_*` and `own_prompt_*` are then of the rests of the prompts.
    """

    prompt_start: np.ndarray
    prompt_length: np.ndarray
    start: np.ndarray
    length: np.ndarray
    own_prompt_start: np.ndarray
    own_prompt_length: np.ndarray
    prefix: int = 0


class PackAttention:
    """Who sees whom in a pack of `tokens` tokens; `dtype`, of the bias, is the model's.

    `longest` is the number of tokens of the longest sequence. `varlen`, on a GPU in 16 bits: cumulative lengths of
    queries and of keys, places of all keys, prompts first, and the longest query and key. `buckets`, made where they
    are used, and `place` [tokens] where the output of each token is among those of all buckets, which lie one after the
    other, padding included.
    """

    def __init__(self, layout: Layout, tokens: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.layout, self.tokens, self.device, self.dtype = layout, tokens, torch.device(device), dtype
        rests = max(layout.prompt_length.max(), (layout.own_prompt_length + layout.length).max())
        self.longest = int(layout.prefix + rests)
        kernel = self.device.type == "cuda" and dtype in KERNEL_TYPES
        self.varlen = _varlen(layout, device) if kernel else None

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All rows: the common prefix, the prompts, then responses of more than one token."""
        layout = self.layout
        prompts, lengths = layout.prompt_start, layout.prompt_length
        buckets, none = [], (None, None)
        if layout.prefix:
            buckets.append(self._bucket(np.zeros(1, np.int64), np.array([layout.prefix]), *none))
            zeros = np.zeros(len(lengths), dtype=np.int64)
            buckets += [self._bucket(prompts[b], lengths[b], zeros[b], zeros[b]) for b in _buckets(lengths)]
        else:
            buckets += [self._bucket(prompts[b], lengths[b], *none) for b in _buckets(lengths)]
        longer = np.flatnonzero(layout.length > 0)
        for b in _buckets(layout.length[longer]):
            rows = longer[b]
            start, length = layout.start[rows], layout.length[rows]
            buckets.append(self._bucket(start, length, layout.own_prompt_start[rows], layout.own_prompt_length[rows]))
        return buckets

    @cached_property
    def place(self) -> Tensor:
        """The index [tokens] of each of the pack's tokens among the queries of all buckets, padding included."""
        place, start = torch.empty(self.tokens, dtype=torch.long, device=self.device), 0
        for b in self.buckets:
            place[b.query[b.real]] = start + b.real.flatten().nonzero()[:, 0]
            start += b.real.numel()
        return place

    def _bucket(
        self, start: np.ndarray, length: np.ndarray, prompt: np.ndarray | None, prompt_length: np.ndarray | None
    ) -> Bucket:
        """Rows of `length` tokens from `start`, each after the prefix and `prompt_length` tokens from `prompt`.

        None: after nothing.
        """
        width = int(length.max())
        column = np.arange(width)
        real = column < length[:, None]
        query = np.where(real, start[:, None] + column, 0)
        seen = np.broadcast_to(column[None, None, :] <= column[None, :, None], (len(start), width, width))
        key, position = query, np.broadcast_to(column, query.shape)
        key_position = position
        if prompt is not None and prompt_length is not None:
            prefix = self.layout.prefix
            prompt_length = prefix + prompt_length
            column = np.arange(int(prompt_length.max()))
            real_prompt = column < prompt_length[:, None]
            place = np.where(column < prefix, column, prompt[:, None] + column - prefix)
            key = np.concatenate([np.where(real_prompt, place, 0), query], axis=1)
            prompt_seen = np.broadcast_to(real_prompt[:, None, :], (len(start), width, len(column)))
            seen = np.concatenate([prompt_seen, seen], axis=2)
            position = position + prompt_length[:, None]
            key_position = np.concatenate([np.broadcast_to(column, real_prompt.shape), position], axis=1)
        bias = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
        places = (torch.from_numpy(np.array(x)).to(self.device) for x in (query, real, key, position, key_position))
        return Bucket(*places, bias[:, None].to(self.device))


def check_packable(folder: Any, config: Any) -> None:
    """Refuse a model with layers that a pack does not reproduce; the error names its `folder`."""
    others = set(getattr(config, "layer_types", None) or []) - KINDS
    if others:
        raise SrtError(
            f"{folder}/config.json: layer_types has {', '.join(sorted(others))}: training packs sequences and has "
            f"{' and '.join(sorted(KINDS))} only: choose another base model"
        )


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """The rows in buckets, longest first; a bucket ends where the rows get much shorter."""
    order = np.argsort(-lengths, kind="stable")
    cuts, start = [], 0
    for i in range(1, len(order)):
        if i - start >= BUCKET and lengths[order[i]] < SAME_LENGTH * lengths[order[start]]:
            cuts.append(i)
            start = i
    return [part for part in np.split(order, cuts) if len(part)]


def _varlen(layout: Layout, device: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cumulative lengths of queries and keys, positions of the keys, and the longest query and key.

    The common prefix comes first, then prompts and responses, which is the order of the pack, so queries need no
    gathering.
    """
    prefix = layout.prefix
    first = np.full(min(prefix, 1), prefix)  # its own row, if there is one
    queries = np.concatenate([first, layout.prompt_length, layout.length])
    keys = np.concatenate([first, prefix + layout.prompt_length, prefix + layout.own_prompt_length + layout.length])
    gather = [np.arange(prefix)] if prefix else []
    for start, length in zip(layout.prompt_start, layout.prompt_length, strict=True):
        gather += [np.arange(prefix), np.arange(start, start + length)]
    for prompt, prompt_length, start, length in zip(
        layout.own_prompt_start, layout.own_prompt_length, layout.start, layout.length, strict=True
    ):
        gather += [np.arange(prefix), np.arange(prompt, prompt + prompt_length), np.arange(start, start + length)]
    cumulative = [torch.from_numpy(np.concatenate([[0], np.cumsum(x)]).astype(np.int32)) for x in (queries, keys)]
    longest = torch.tensor([queries.max(), keys.max()])  # on the CPU, as the kernel takes numbers
    return (*(x.to(device) for x in (*cumulative, torch.from_numpy(np.concatenate(gather)))), longest)  # type: ignore[return-value]


def _packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: PackAttention | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = True,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a pack: query [1, H, M, d], key and value [1, G, M, d] -> [1, M, H, d].

    Args:
        sliding_window: a token sees only so many keys of its sequence, the last ones.
        softcap: scores s become softcap tanh(s / softcap).
        s_aux: the sink of each head [H], a score without a value.

    Raises:
        ValueError: `packing` is missing.
        SrtError: the model passes something else that has an effect.
    """
    if packing is None:
        raise ValueError("attention of a pack needs packing=PackAttention")
    refuse_unknown(module, {**kwargs, "is_causal": True if is_causal is False else None})
    window = None if sliding_window is None or sliding_window >= packing.longest else sliding_window
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [M, heads, d]
    if packing.varlen is not None and softcap is None and s_aux is None:
        from torch.nn.attention.varlen import varlen_attn

        queries, keys, gather, longest = packing.varlen
        k, v = k.index_select(0, gather), v.index_select(0, gather)
        grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] and _asks_for_groups(varlen_attn) else {}
        out = varlen_attn(
            q, k, v, queries, keys, int(longest[0]), int(longest[1]), scale=scaling,
            window_size=(-1 if window is None else window - 1, 0), **grouped,
        )  # fmt: skip
        return out[None], None
    total, heads, size = q.shape
    groups = k.shape[1]
    shared = heads // groups  # query heads per key head; laid along the query axis, so that keys are not copied
    # One gather for all buckets, so that its backward pass adds into the pack once and not once per bucket.
    gathered = [
        x.reshape(total, -1).index_select(0, torch.cat([getattr(b, at).flatten() for b in packing.buckets]))
        for x, at in ((q, "query"), (k, "key"), (v, "key"))
    ]
    counts = [[getattr(b, at).numel() for b in packing.buckets] for at in ("query", "key", "key")]
    parts = []
    for b, bq, bk, bv in zip(packing.buckets, *map(torch.split, gathered, counts), strict=True):
        rows, width = b.query.shape
        bq = bq.view(rows, width, groups, shared, size).permute(0, 2, 3, 1, 4).reshape(rows, groups, -1, size)
        bk, bv = (x.view(rows, -1, groups, size).transpose(1, 2) for x in (bk, bv))
        bias = b.wide(shared, window)
        if softcap is None and s_aux is None:
            out = scaled_dot_product_attention(bq, bk, bv, attn_mask=bias, scale=scaling)
        else:
            out = _explicit(bq, bk, bv, bias, scaling, softcap, s_aux)
        out = out.view(rows, groups, shared, width, size).permute(0, 3, 1, 2, 4)
        parts.append(out.reshape(rows * width, heads * size))
    return torch.cat(parts).index_select(0, packing.place).view(1, total, heads, size), None


@cache
def _asks_for_groups(kernel: Any) -> bool:
    """Whether the kernel has to be told of grouped queries; torch 2.11's takes them as they are."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention in single operations: q [b, G, shared L, d], k and v [b, G, S, d], sinks [G shared]."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = (scores + bias).to(torch.promote_types(scores.dtype, torch.float32))
    if sinks is not None:
        b, groups, queries, _ = scores.shape
        sink = sinks.view(groups, -1).repeat_interleave(queries * groups // len(sinks), dim=1)
        scores = torch.cat([scores, sink[None, :, :, None].expand(b, -1, -1, 1)], dim=-1)
    weights = scores.softmax(-1)
    return (weights if sinks is None else weights[..., :-1]).to(v.dtype) @ v


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
