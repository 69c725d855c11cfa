"""Log-probabilities and entropies of response tokens, with gradient, from one padded forward pass.

Prompts are skipped before the head, which is the larger half of a small model and most of the memory of a large one.
Rows are right-padded: under a causal mask padding cannot reach a real token, so no attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

HEAD_CHUNK = 4096  # response tokens whose logits exist at one time when gradients are checkpointed


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows into batches of at most `budget` padded tokens, rows of like length together.

    >>> micro_batches([3, 9, 4, 8], 18)
    [[1, 3], [2, 0]]

    A row that is longer than the budget gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _head(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return torch.stack([logp.gather(-1, target[:, None])[:, 0], entropy])


def response_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[np.ndarray],
    temperature: float,
    recompute_head: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs [b, R], entropies [b, R] and mask [b, R] of b responses given their prompts.

    Args:
        prompts: token ids, one list a row. responses: token ids, int arrays; R is the longest.
        temperature: logits are divided by it, as when sampling.
        recompute_head: keep no logits for the backward pass but compute them again, in chunks.
    """
    device = next(model.parameters()).device
    rows = len(prompts)
    total = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    longest = max(len(r) for r in responses)
    ids = torch.zeros(rows, total, dtype=torch.long)
    mask = torch.zeros(rows, longest, dtype=torch.bool)
    position = torch.zeros(rows, longest, dtype=torch.long)
    target = torch.zeros(rows, longest, dtype=torch.long)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        p, r = len(prompt), len(response)
        answer = torch.from_numpy(response.astype(np.int64))
        ids[i, :p] = torch.tensor(list(prompt))
        ids[i, p : p + r] = answer
        mask[i, :r] = True
        position[i, :r] = torch.arange(p - 1, p + r - 1)  # the state before a token predicts it
        target[i, :r] = answer
    ids, mask, position, target = (x.to(device) for x in (ids, mask, position, target))
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    row = torch.arange(rows, device=device)[:, None].expand_as(position)
    flat, flat_target = hidden[row[mask], position[mask]], target[mask]
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    if recompute_head:
        parts = [
            checkpoint(
                _head, flat[s : s + HEAD_CHUNK], head.weight, bias, flat_target[s : s + HEAD_CHUNK], temperature,
                use_reentrant=False,
            )
            for s in range(0, len(flat), HEAD_CHUNK)
        ]  # fmt: skip
        both = torch.cat(parts, dim=1)
    else:
        both = _head(flat, head.weight, bias, flat_target, temperature)
    logprobs = torch.zeros(rows, longest, dtype=both.dtype, device=device).masked_scatter(mask, both[0])
    entropy = torch.zeros(rows, longest, dtype=both.dtype, device=device).masked_scatter(mask, both[1])
    return logprobs, entropy, mask
