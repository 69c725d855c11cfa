"""Attention over a pack: each token sees its own prompt and what precedes it in its own sequence.

On a GPU this is one call of PyTorch's variable-length kernel. On a CPU, which has none, sequences of about the same
length are padded to one rectangle; linear layers never see that padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from srt.common.errors import SrtError

ATTENTION = "srt_packed"
SAME_LENGTH = 0.75  # a bucket ends before a row shorter than this share of its longest row
BUCKET = 16  # rows that a bucket has at least


@dataclass(frozen=True)
class Bucket:
    """Rows of about the same length, padded to one rectangle for attention on a CPU.

    `query` [b, L] and `key` [b, S] are positions in the pack (0 where padded), `real` [b, L] is False where a query is
    padding; `bias` [b, 1, L, S] is 0 where a query sees a key and -inf elsewhere.
    """

    query: Tensor
    real: Tensor
    key: Tensor
    bias: Tensor
    _wide: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def wide(self, shared: int) -> Tensor:
        """`bias` repeated for `shared` query heads along the query axis [b, 1, shared L, S]; kept for all layers."""
        if shared not in self._wide:
            self._wide[shared] = self.bias.repeat(1, 1, shared, 1)
        return self._wide[shared]


@dataclass(frozen=True)
class PackAttention:
    """Who sees whom in a pack of M tokens.

    On a CPU `buckets`, and `place` [M] where the output of each token is among those of all buckets, which lie one
    after the other, padding included. On a GPU `varlen`: cumulative lengths of queries and of keys, positions of all
    keys, prompts first, and the longest query and key.
    """

    buckets: list[Bucket]
    place: Tensor | None = None
    varlen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Layout:
    """Where prompts and responses are in a pack: P distinct prompts, b responses (without their last tokens).

    `prompt_start`, `prompt_length` [P]; `start`, `length` [b] of each response; `own_prompt_start`,
    `own_prompt_length` [b] of the prompt that it continues.
    """

    prompt_start: np.ndarray
    prompt_length: np.ndarray
    start: np.ndarray
    length: np.ndarray
    own_prompt_start: np.ndarray
    own_prompt_length: np.ndarray


def check_packable(folder: Any, config: Any) -> None:
    """Refuse a model whose attention a pack does not reproduce; the error names its `folder`."""
    if getattr(config, "attention_dropout", 0.0):
        raise SrtError(
            f"{folder}/config.json: attention_dropout must be 0, or rollouts and training would differ: set it to 0 "
            "there"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise SrtError(
            f"{folder}/config.json: layer_types must be full_attention only ({', '.join(sorted(kinds))}), as training "
            "packs sequences and has no other attention: choose another base model"
        )


def plan_attention(layout: Layout, tokens: int, device: torch.device | str, dtype: torch.dtype) -> PackAttention:
    """What attention needs to know of a pack of `tokens` tokens; `dtype`, of the bias, is the model's."""
    if torch.device(device).type == "cuda":
        return PackAttention([], varlen=_varlen(layout, device))
    prompts, lengths = layout.prompt_start, layout.prompt_length
    buckets = [_bucket(prompts[b], lengths[b], None, None, dtype) for b in _buckets(lengths)]
    longer = np.flatnonzero(layout.length > 0)
    for b in _buckets(layout.length[longer]):
        rows = longer[b]
        start, length = layout.start[rows], layout.length[rows]
        buckets.append(_bucket(start, length, layout.own_prompt_start[rows], layout.own_prompt_length[rows], dtype))
    return PackAttention(buckets, place=_places(buckets, tokens))


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """The rows in buckets, longest first; a bucket ends where the rows get much shorter."""
    order = np.argsort(-lengths, kind="stable")
    cuts, start = [], 0
    for i in range(1, len(order)):
        if i - start >= BUCKET and lengths[order[i]] < SAME_LENGTH * lengths[order[start]]:
            cuts.append(i)
            start = i
    return [part for part in np.split(order, cuts) if len(part)]


def _bucket(
    start: np.ndarray, length: np.ndarray, prompt: np.ndarray | None, prompt_length: np.ndarray | None,
    dtype: torch.dtype,
) -> Bucket:  # fmt: skip
    """Rows of `length` tokens from `start`, each after `prompt_length` tokens from `prompt` (None: no prompt)."""
    width = int(length.max())
    column = np.arange(width)
    real = column < length[:, None]
    query = np.where(real, start[:, None] + column, 0)
    seen = np.broadcast_to(column[None, None, :] <= column[None, :, None], (len(start), width, width))
    key = query
    if prompt is not None and prompt_length is not None:
        column = np.arange(int(prompt_length.max()))
        real_prompt = column < prompt_length[:, None]
        key = np.concatenate([np.where(real_prompt, prompt[:, None] + column, 0), query], axis=1)
        prompt_seen = np.broadcast_to(real_prompt[:, None, :], (len(start), width, len(column)))
        seen = np.concatenate([prompt_seen, seen], axis=2)
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return Bucket(torch.from_numpy(query), torch.from_numpy(real), torch.from_numpy(key), bias[:, None])


def _places(buckets: list[Bucket], total: int) -> Tensor:
    """The index [total] of each of the pack's tokens among the queries of all buckets, padding included."""
    place, start = torch.empty(total, dtype=torch.long), 0
    for b in buckets:
        place[b.query[b.real]] = start + b.real.flatten().nonzero()[:, 0]
        start += b.real.numel()
    return place


def _varlen(layout: Layout, device: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cumulative lengths of queries and keys, positions of the keys, and the longest query and key.

    Prompts come first and then responses, which is the order of the pack, so queries need no gathering.
    """
    queries = np.concatenate([layout.prompt_length, layout.length])
    keys = np.concatenate([layout.prompt_length, layout.own_prompt_length + layout.length])
    gather = [np.arange(s, s + n) for s, n in zip(layout.prompt_start, layout.prompt_length, strict=True)]
    for prompt, prompt_length, start, length in zip(
        layout.own_prompt_start, layout.own_prompt_length, layout.start, layout.length, strict=True
    ):
        gather += [np.arange(prompt, prompt + prompt_length), np.arange(start, start + length)]
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a pack: query [1, H, M, d], key and value [1, G, M, d] -> [1, M, H, d]."""
    if packing is None:
        raise ValueError("attention of a pack needs packing=PackAttention")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [M, heads, d]
    if packing.varlen is not None:
        from torch.nn.attention.varlen import varlen_attn

        queries, keys, gather, longest = packing.varlen
        k, v = k.index_select(0, gather), v.index_select(0, gather)
        out = varlen_attn(
            q, k, v, queries, keys, int(longest[0]), int(longest[1]), scale=scaling, window_size=(-1, 0),
            enable_gqa=q.shape[1] != k.shape[1],
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
        out = scaled_dot_product_attention(bq, bk, bv, attn_mask=b.wide(shared), scale=scaling)
        out = out.view(rows, groups, shared, width, size).permute(0, 3, 1, 2, 4)
        parts.append(out.reshape(rows * width, heads * size))
    return torch.cat(parts).index_select(0, packing.place).view(1, total, heads, size), None


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
