"""Sequences laid end to end without padding, each prompt once for all of its responses.

A group is one prompt with n responses. Its tokens are laid out as

    prompt | response 1 without its last token | response 2 ... | response n

(the last token predicts nothing). Linear layers see these tokens and nothing else; only attention knows which belong
together: a prompt token attends to its prompt, a response token to its prompt and to what precedes it in its response.
So the prompt costs once what n separate sequences pay n times, and every log-probability and gradient is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from srt.common.errors import SrtError

ATTENTION = "srt_packed"
SAME_LENGTH = 0.75  # rows at least this share of the longest of their bucket are padded to it in CPU attention
BUCKET = 16  # fewest rows of a bucket


@dataclass(frozen=True)
class Bucket:
    """Rows of about the same length, padded to one rectangle for attention (CPU; the GPU kernel needs none).

    `query` [b, L] and `key` [b, S] are positions in the pack (0 where padded), `real` [b, L] is False where a query is
    padding; `bias` [b, 1, L, S] is 0 where a query sees a key and -inf elsewhere.
    """

    query: Tensor
    real: Tensor
    key: Tensor
    bias: Tensor
    _wide: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def wide(self, shared: int) -> Tensor:
        """`bias` of `shared` query heads laid along the query axis [b, 1, shared L, S]; one tensor for all layers."""
        if shared not in self._wide:
            self._wide[shared] = self.bias.repeat(1, 1, shared, 1)
        return self._wide[shared]


@dataclass(frozen=True)
class Pack:
    """One forward pass over M packed tokens that predicts K response tokens of b rows.

    `ids`, `position` [M] token ids and positions in their sequence. `predict` [K] where in the pack the state before
    each response token is, `token` [K] that token, rows one after the other; `lengths` [b] tokens of each response;
    `rows` which sequences of the batch these are. For attention on a CPU `buckets`, and `place` [M] where the outputs
    of the pack's tokens are among those of all buckets one after the other, padding included. On a GPU `varlen`:
    cumulative lengths of queries and of keys, positions of all keys, prompts first, and the longest of both.
    """

    rows: list[int]
    lengths: Tensor
    ids: Tensor
    position: Tensor
    predict: Tensor
    token: Tensor
    buckets: list[Bucket]
    place: Tensor | None = None
    varlen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    @property
    def mask(self) -> Tensor:
        """[b, R] True on response tokens; R is the longest response."""
        return torch.arange(int(self.lengths.max()), device=self.lengths.device) < self.lengths[:, None]


def split(tokens: Sequence[int], group: Sequence[int], prompt: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Units of packs of rows: a unit holds whole groups, a pack at most `budget` tokens (one row may exceed it).

    `tokens` [N] are tokens of each response, `group` [N] its group (rows of a group adjacent), `prompt` [N] tokens of
    its prompt. Several small groups share a pack; a large group is a unit of several packs, each with the prompt.

    >>> split([4, 4, 4, 4], [0, 0, 1, 1], [2, 2, 2, 2], 20)
    [[[0, 1, 2, 3]]]
    >>> split([4, 4, 4, 4], [0, 0, 1, 1], [2, 2, 2, 2], 6)
    [[[0], [1]], [[2], [3]]]
    """
    units: list[list[list[int]]] = []
    filled = budget + 1  # tokens in the last pack of the last unit; no room before the first
    for start, stop in runs(group):
        rows = list(range(start, stop))
        size = prompt[start] + sum(tokens[start:stop])
        if filled + size <= budget:
            units[-1][-1] += rows
            filled += size
            continue
        packs: list[list[int]] = []
        for row in sorted(rows, key=lambda i: (-tokens[i], i)) if size > budget else rows:
            if packs and filled + tokens[row] <= budget:
                packs[-1].append(row)
                filled += tokens[row]
            else:
                packs.append([row])
                filled = prompt[row] + tokens[row]
        units.append(packs)
        filled = filled if len(packs) == 1 else budget + 1
    return units


def runs(group: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop of each run of equal values.

    >>> runs([7, 7, 3])
    [(0, 2), (2, 3)]
    """
    edges = [0, *(i for i in range(1, len(group)) if group[i] != group[i - 1]), len(group)]
    return list(pairwise(edges)) if len(group) else []


def balance(costs: Sequence[int], parts: int) -> list[list[int]]:
    """Which items each of `parts` ranks gets so that sums of costs are even: longest first to the least loaded.

    Each part is sorted; every part gets an item where there are enough.

    >>> balance([5, 3, 3, 1], 2)
    [[0, 3], [1, 2]]
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    load = [0] * parts
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(parts), key=lambda p: (load[p], p))
        shares[least].append(i)
        load[least] += costs[i]
    return [sorted(share) for share in shares]


def pack(
    prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray], group: Sequence[int], rows: Sequence[int],
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> Pack:  # fmt: skip
    """Lay out the sequences `rows` of a batch; rows of one group share the prompt.

    Args:
        prompts, responses, group: of the whole batch [N]; every response has at least one token.
        dtype: of the attention bias, the model's.
    """
    ids: list[np.ndarray] = []
    starts: dict[int, int] = {}
    filled = 0
    for i in rows:
        if group[i] not in starts:
            starts[group[i]] = filled
            ids.append(np.asarray(prompts[i], dtype=np.int64))
            filled += len(prompts[i])
    prompt_tokens = filled
    own = np.empty(len(rows), dtype=np.int64)
    for r, i in enumerate(rows):
        own[r] = filled
        ids.append(responses[i][:-1].astype(np.int64))
        filled += len(responses[i]) - 1
    of_prompt = {group[i]: len(prompts[i]) for i in rows}
    before = np.array([of_prompt[group[i]] for i in rows])
    first = np.array([starts[group[i]] for i in rows])
    lengths = np.array([len(responses[i]) for i in rows])
    position = [np.arange(n) for n in of_prompt.values()]
    position += [np.arange(p, p + n - 1) for p, n in zip(before, lengths, strict=True)]
    predict = [
        np.concatenate([[f + p - 1], np.arange(o, o + n - 1)])
        for f, p, o, n in zip(first, before, own, lengths, strict=True)
    ]
    heads = np.array(list(starts.values()))
    sizes = np.array(list(of_prompt.values()))

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    on_gpu = torch.device(device).type == "cuda"
    buckets, place, varlen = [], None, None
    if on_gpu:
        varlen = _varlen(heads, sizes, own, lengths - 1, first, before, device)
    else:
        buckets = [_bucket(heads[b], sizes[b], None, None, dtype) for b in _buckets(sizes)]
        longer = np.flatnonzero(lengths > 1)
        buckets += [
            _bucket(own[longer[b]], lengths[longer[b]] - 1, first[longer[b]], before[longer[b]], dtype)
            for b in _buckets(lengths[longer] - 1)
        ]
        place = _places(buckets, filled)
    assert prompt_tokens == sizes.sum()
    return Pack(
        rows=list(rows),
        lengths=tensor(lengths),
        ids=tensor(np.concatenate(ids)),
        position=tensor(np.concatenate(position)),
        predict=tensor(np.concatenate(predict)),
        token=tensor(np.concatenate([responses[i] for i in rows]).astype(np.int64)),
        buckets=buckets,
        place=place,
        varlen=varlen,
    )


def check_packable(folder: Any, config: Any) -> None:
    """Refuse models whose attention a pack does not reproduce; `folder` names them in the sentence."""
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


# -- attention -------------------------------------------------------------------------------------------------------


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows by length, longest first, cut where they get much shorter."""
    order = np.argsort(-lengths, kind="stable")
    cuts, start = [], 0
    for i in range(1, len(order)):
        if i - start >= BUCKET and lengths[order[i]] < SAME_LENGTH * lengths[order[start]]:
            cuts.append(i)
            start = i
    return [part for part in np.split(order, cuts) if len(part)]


def _bucket(
    start: np.ndarray, count: np.ndarray, first: np.ndarray | None, before: np.ndarray | None, dtype: torch.dtype
) -> Bucket:
    """Rows of `count` own tokens from `start` on, after `before` prompt tokens from `first` on (None: no prompt)."""
    width = int(count.max())
    column = np.arange(width)
    real = column < count[:, None]
    query = np.where(real, start[:, None] + column, 0)
    seen = np.broadcast_to(column[None, None, :] <= column[None, :, None], (len(start), width, width))
    key = query
    if first is not None and before is not None:
        wide = np.arange(int(before.max()))
        there = wide < before[:, None]
        key = np.concatenate([np.where(there, first[:, None] + wide, 0), query], axis=1)
        prompt = np.broadcast_to(there[:, None, :], (len(start), width, len(wide)))
        seen = np.concatenate([prompt, seen], axis=2)
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return Bucket(torch.from_numpy(query), torch.from_numpy(real), torch.from_numpy(key), bias[:, None])


def _places(buckets: list[Bucket], total: int) -> Tensor:
    """Where each of `total` positions stands among the buckets' queries: [total]."""
    place, start = torch.empty(total, dtype=torch.long), 0
    for b in buckets:
        place[b.query[b.real]] = start + b.real.flatten().nonzero()[:, 0]
        start += b.real.numel()
    return place


def _varlen(
    heads: np.ndarray, sizes: np.ndarray, own: np.ndarray, counts: np.ndarray, first: np.ndarray, before: np.ndarray,
    device: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Cumulative lengths of queries and keys, positions of the keys, and the longest query and key.

    Prompts come first and then responses, which is the order of the pack, so queries need no gathering.
    """
    queries = np.concatenate([sizes, counts])
    keys = np.concatenate([sizes, before + counts])
    gather = [np.arange(s, s + n) for s, n in zip(heads, sizes, strict=True)]
    for f, p, o, n in zip(first, before, own, counts, strict=True):
        gather += [np.arange(f, f + p), np.arange(o, o + n)]
    cumulative = [torch.from_numpy(np.concatenate([[0], np.cumsum(x)]).astype(np.int32)) for x in (queries, keys)]
    longest = torch.tensor([queries.max(), keys.max()])  # stays on the CPU: the kernel wants numbers
    return (*(x.to(device) for x in (*cumulative, torch.from_numpy(np.concatenate(gather)))), longest)  # type: ignore[return-value]


def _packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Pack | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a pack: query [1, H, M, d], key and value [1, G, M, d] -> [1, M, H, d]."""
    if packing is None:
        raise ValueError("attention of a pack needs packing=Pack")
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
    shared = heads // groups  # query heads of one key head: they are laid along the query axis, so keys are not copied
    # One gather for all buckets: its backward pass adds into the pack once, not once a bucket.
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
