"""Copies of a training state in host memory, to be written while training continues."""

from __future__ import annotations

import copy
from typing import Any

import torch


def host_copy(state: Any) -> Any:
    """A deep copy of a state dict with its tensors in host memory; later changes of the original do not reach it.

    Tensors that share storage share it in the copy, so that torch.save writes the same bytes for both on a CPU.
    """
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    _copy_tensors(state, memo, storages)
    return copy.deepcopy(state, memo)


def _copy_tensors(value: Any, memo: dict[int, Any], storages: dict[int, torch.UntypedStorage]) -> None:
    """Put host copies of all tensors into the memo of deepcopy, whose own copies would stay on the GPU."""
    if isinstance(value, dict):
        for item in value.values():
            _copy_tensors(item, memo, storages)
    elif isinstance(value, list | tuple):
        for item in value:
            _copy_tensors(item, memo, storages)
    elif type(value) is torch.Tensor and id(value) not in memo and not vars(value):
        source = value.detach().untyped_storage()
        if source._cdata not in storages:
            storages[source._cdata] = torch.UntypedStorage(source.nbytes()).copy_(source)
        copied = torch.empty(0, dtype=value.dtype)
        copied.set_(storages[source._cdata], value.storage_offset(), value.shape, value.stride())  # type: ignore[call-overload]
        memo[id(value)] = copied.requires_grad_(value.requires_grad)
