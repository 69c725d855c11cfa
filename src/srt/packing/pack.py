"""Sequences laid end to end without padding, each prompt once for all of its responses.

A group is one prompt with n responses. Its tokens are laid out as

    prompt | response 1 without its last token | response 2 ... | response n

(the last token predicts nothing). Linear layers see these tokens and nothing else. Only attention knows which belong
together (srt.packing.attention): a prompt token attends to its prompt, a response token to its prompt and to what
precedes it in its response. So a prompt is computed once and not n times, and every log-probability and gradient is
that of n separate sequences. What all prompts of a pack begin with, such as solved examples, is laid out once before
the rests of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from srt.packing.attention import Layout, PackAttention

# Tokens that all prompts of a pack must begin with to be computed once. Fewer save little, and sharing them would
# change the rounding of runs whose prompts have a few words in common.
LEAST_PREFIX = 32


@dataclass(frozen=True)
class Pack:
    """One forward pass over M packed tokens that predicts K response tokens of b rows.

    `ids`, `position` [M] token ids and positions in their sequence. `predict` [K] where in the pack the state before
    each response token is, `token` [K] that token, rows one after the other; `lengths` [b] tokens of each response;
    `rows` which sequences of the batch these are; `attention` who sees whom.
    """

    rows: list[int]
    lengths: Tensor
    ids: Tensor
    position: Tensor
    predict: Tensor
    token: Tensor
    attention: PackAttention

    @property
    def mask(self) -> Tensor:
        """[b, R] True on response tokens; R is the longest response."""
        return torch.arange(int(self.lengths.max()), device=self.lengths.device) < self.lengths[:, None]


def split(tokens: Sequence[int], group: Sequence[int], prompt: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Units of packs of rows: a unit is whole groups, a pack at most `budget` tokens (a single row may exceed it).

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
    """Split items over `parts` ranks so that the sums of their costs are even: costliest first, to the least loaded.

    Each part is sorted, and every part gets an item where there are enough.

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
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, least_prefix: int = LEAST_PREFIX,
) -> Pack:  # fmt: skip
    """Lay out the sequences `rows` of a batch; rows of one group share the prompt.

    Args:
        prompts, responses, group: of the whole batch [N]; every response has at least one token.
        dtype: the model's, for the attention bias.
        least_prefix: what all prompts begin with is shared from so many tokens on.
    """
    of_group = {group[i]: np.asarray(prompts[i], dtype=np.int64) for i in rows}
    prefix = _common_prefix(list(of_group.values()), least_prefix)
    ids = [next(iter(of_group.values()))[:prefix]]
    starts: dict[int, int] = {}
    filled = prefix
    for g, prompt in of_group.items():
        starts[g] = filled
        ids.append(prompt[prefix:])
        filled += len(prompt) - prefix
    own = np.empty(len(rows), dtype=np.int64)
    for r, i in enumerate(rows):
        own[r] = filled
        ids.append(responses[i][:-1].astype(np.int64))
        filled += len(responses[i]) - 1
    before = np.array([len(prompts[i]) for i in rows])
    first = np.array([starts[group[i]] for i in rows])
    lengths = np.array([len(responses[i]) for i in rows])
    position = [np.arange(prefix), *(np.arange(prefix, len(prompt)) for prompt in of_group.values())]
    position += [np.arange(p, p + n - 1) for p, n in zip(before, lengths, strict=True)]
    predict = [
        np.concatenate([[f + p - prefix - 1], np.arange(o, o + n - 1)])
        for f, p, o, n in zip(first, before, own, lengths, strict=True)
    ]
    layout = Layout(
        prompt_start=np.array(list(starts.values())),
        prompt_length=np.array([len(prompt) - prefix for prompt in of_group.values()]),
        start=own,
        length=lengths - 1,
        own_prompt_start=first,
        own_prompt_length=before - prefix,
        prefix=prefix,
    )

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return Pack(
        rows=list(rows),
        lengths=tensor(lengths),
        ids=tensor(np.concatenate(ids)),
        position=tensor(np.concatenate(position)),
        predict=tensor(np.concatenate(predict)),
        token=tensor(np.concatenate([responses[i] for i in rows]).astype(np.int64)),
        attention=PackAttention(layout, filled, device, dtype),
    )


def _common_prefix(prompts: Sequence[np.ndarray], least: int) -> int:
    """Tokens that several prompts begin with, each with at least one more; 0 if they are fewer than `least`.

    >>> _common_prefix([np.array([1, 2, 3]), np.array([1, 2, 4, 5])], 2)
    2
    """
    if len(prompts) < 2:
        return 0
    shortest = min(map(len, prompts)) - 1
    same = np.all([prompt[:shortest] == prompts[0][:shortest] for prompt in prompts], axis=0)
    found = int(np.cumprod(same, dtype=np.int64).sum())
    return found if found >= max(least, 1) else 0
