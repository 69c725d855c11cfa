"""The weights that a vLLM model actually holds, under the names of a Hugging Face checkpoint.

vLLM fuses q, k, v into one matrix and gate, up into another, pads the vocabulary, and on a CPU moves linear weights
into packed buffers that cannot be read. So fused matrices are sliced, padding is left out, and a packed matrix is
multiplied by the identity to read it, which is exact: every product is w * 1 or w * 0. Under tensor parallelism a rank
holds shards of some tensors and copies of others; the number of elements on all ranks together tells which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from srt.common.errors import SrtError
from srt.rollout.protocol import Checksum, tensor_checksum

HEAD = "lm_head"
Part = tuple[float, float, int]  # sum, absolute sum and number of the elements that this rank holds
IDENTITY_ROWS = 1024  # rows of the identity multiplied at once; bounds the memory


def checkpoint_sizes(model_dir: Path) -> dict[str, int]:
    """The number of elements of each tensor in a Hugging Face checkpoint, by name, from its safetensors headers."""
    from safetensors import safe_open

    index = model_dir / "model.safetensors.index.json"
    if index.exists():  # the folder may hold other safetensors files, with tensors named in other formats
        files = {model_dir / name for name in json.loads(index.read_text())["weight_map"].values()}
    else:
        files = set(model_dir.glob("*.safetensors"))
    sizes: dict[str, int] = {}
    for path in sorted(files):
        if not path.exists():
            raise SrtError(f"{path} does not exist, though {index.name} names it: copy the checkpoint again")
        with safe_open(path, framework="np") as file:
            sizes.update((name, math.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    if not sizes:
        raise SrtError(f"{model_dir} has no *.safetensors file: vLLM needs a Hugging Face checkpoint there")
    return sizes


def matrix(module: Any) -> Iterator[torch.Tensor]:
    """The weight matrix of a linear module in blocks of input columns [out, in'], in their order."""
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
    """(checkpoint name, number of rows) of each matrix that one module holds; -1 stands for all rows."""
    prefix, _, last = name.rpartition(".")
    parts = fused.get(last, [last])
    if len(parts) == 1:
        return [(name, module.shard_indices.num_org_elements if hasattr(module, "shard_indices") else -1)]
    return [(f"{prefix}.{part}", rows) for part, rows in zip(parts, module.output_partition_sizes, strict=True)]


def _add(sums: dict[str, Part], name: str, tensor: torch.Tensor) -> None:
    """Add a piece of the tensor `name` to its sums."""
    total, absolute, count = sums.get(name, (0.0, 0.0, 0))
    more = tensor_checksum(tensor)
    sums[name] = (total + more[0], absolute + more[1], count + tensor.numel())


def _rows(tensor: torch.Tensor, sizes: list[tuple[str, int]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Slice a fused matrix [rows, ...] into its parts of `sizes`, (name, number of rows)."""
    offset = 0
    for name, rows in sizes:
        end = len(tensor) if rows < 0 else offset + rows
        yield name, tensor[offset:end]
        offset = end


@torch.no_grad()
def model_checksums(model: Any) -> dict[str, Part]:
    """Sum, absolute sum (float64) and size of this rank's part of every weight, by checkpoint name.

    `lm_head.weight` is listed even if it is tied: it is read from the tensor that the head uses (on a CPU a packed
    copy), and `embed_tokens.weight` from the one that the embedding uses.
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
        sizes: number of elements of each whole tensor. Elements beyond that number are copies: every rank holds the
            norms, and key-value heads are copied if there are fewer of them than ranks. Copies are averaged, so one
            that differs from the others changes the result.
    """
    sums = {}
    for name in ranks[0]:
        totals = [sum(rank[name][i] for rank in ranks) for i in range(3)]
        if not totals[2]:
            raise SrtError(
                f"vLLM holds {name} in a form that cannot be read, so its weights cannot be checked: set "
                "train.rollout_engine to transformers"
            )
        copies = totals[2] / sizes.get(name, totals[2])
        sums[name] = (totals[0] / copies, totals[1] / copies)
    return sums
