"""What a vLLM model really holds, under the names of a Hugging Face checkpoint.

vLLM fuses q, k, v and gate, up into one matrix each, pads the vocabulary, and on a CPU moves linear weights into packed
buffers that cannot be read. So fused matrices are sliced, padding is left out, and a packed matrix is read by
multiplying it with the identity, which is exact: every product is w * 1 or w * 0. Under tensor parallelism a rank holds
shards of some tensors and copies of others: which, shows in how many elements all ranks hold together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from srt.rollout.protocol import Checksum, tensor_checksum

HEAD = "lm_head"
Part = tuple[float, float, int]  # sum, absolute sum and number of the elements that this rank holds
IDENTITY_ROWS = 1024  # rows of the identity multiplied at once; bounds the memory


def matrix(module: Any) -> Iterator[torch.Tensor]:
    """Blocks [out, in'] of the matrix that a linear module multiplies with, input columns in order."""
    packed = getattr(module, "cpu_linear", None)
    if packed is None:
        yield module.weight
        return
    inputs = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    for start in range(0, inputs, IDENTITY_ROWS):
        rows = torch.arange(start, min(start + IDENTITY_ROWS, inputs))
        identity = torch.nn.functional.one_hot(rows, inputs).to(module.weight.dtype)
        yield packed(identity, module.weight, None).t()


def _parts(name: str, module: Any, fused: dict[str, list[str]]) -> list[tuple[str, int]]:
    """(checkpoint name of the module, its rows) for what one module holds; -1 for all rows."""
    prefix, _, last = name.rpartition(".")
    parts = fused.get(last, [last])
    if len(parts) == 1:
        return [(name, module.shard_indices.num_org_elements if hasattr(module, "shard_indices") else -1)]
    return [(f"{prefix}.{part}", rows) for part, rows in zip(parts, module.output_partition_sizes, strict=True)]


def _add(sums: dict[str, Part], name: str, tensor: torch.Tensor) -> None:
    total, absolute, count = sums.get(name, (0.0, 0.0, 0))
    more = tensor_checksum(tensor)
    sums[name] = (total + more[0], absolute + more[1], count + tensor.numel())


def _rows(tensor: torch.Tensor, sizes: list[tuple[str, int]]) -> Iterator[tuple[str, torch.Tensor]]:
    offset = 0
    for name, rows in sizes:
        end = len(tensor) if rows < 0 else offset + rows
        yield name, tensor[offset:end]
        offset = end


@torch.no_grad()
def model_checksums(model: Any) -> dict[str, Part]:
    """Sum, absolute sum (float64) and size of what this rank's vLLM model holds of every weight, by checkpoint name.

    `lm_head.weight` is there even where it is tied: it is read where the head reads it, which on a CPU is a packed
    copy, and `embed_tokens.weight` where the embedding does.
    """
    fused = getattr(model, "packed_modules_mapping", {})
    sums: dict[str, Part] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        is_embedding = hasattr(module, "shard_indices")
        is_linear = hasattr(module, "cpu_linear") and not is_embedding
        parts = _parts(name, module, fused)
        for key, parameter in own.items():
            if key == "weight" and (is_linear or module is getattr(model, HEAD, None)):
                continue
            for part, rows in _rows(parameter, parts):
                _add(sums, f"{part}.{key}", rows)
        if is_linear:
            for block in matrix(module):
                for part, rows in _rows(block, parts):
                    _add(sums, f"{part}.weight", rows)
    head = getattr(model, HEAD, None)
    if hasattr(head, "shard_indices"):
        for block in matrix(head):
            _add(sums, f"{HEAD}.weight", block[: head.shard_indices.num_org_elements])
    return sums


def combine(ranks: list[dict[str, Part]], sizes: dict[str, int]) -> dict[str, Checksum]:
    """Checksums of whole tensors from the parts of all ranks of a tensor-parallel group.

    Args:
        sizes: elements of each whole tensor. What the ranks hold beyond that are copies: norms are on every rank, and
            key-value heads too where there are fewer of them than ranks. A copy unlike the others changes the mean.
    """
    sums = {}
    for name in ranks[0]:
        totals = [sum(rank[name][i] for rank in ranks) for i in range(3)]
        copies = totals[2] / sizes.get(name, totals[2])
        sums[name] = (totals[0] / copies, totals[1] / copies)
    return sums
