"""Host memory beside a GPU's: copies of a training state to write from, and weights that wait there for their use.

On a CPU both memories are one: a copy is a copy all the same, weights stay where they are.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch


def host_copy(state: Any) -> Any:
    """A deep copy of a state dict, its tensors in host memory: nothing that happens to the original changes it.

    Tensors that share storage share it in the copy, so that torch.save writes the same bytes for both on a CPU.
    """
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    _copy_tensors(state, memo, storages)
    return copy.deepcopy(state, memo)


def _copy_tensors(value: Any, memo: dict[int, Any], storages: dict[int, torch.UntypedStorage]) -> None:
    """Put copies of the tensors in dicts, lists and tuples into the memo of deepcopy, which would stay on the GPU."""
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
        made = torch.empty(0, dtype=value.dtype)
        made.set_(storages[source._cdata], value.storage_offset(), value.shape, value.stride())  # type: ignore[call-overload]
        memo[id(value)] = made.requires_grad_(value.requires_grad)


class Parked:
    """A model that is only read, whose weights wait in pinned host memory and come to the device for `here`.

    Args:
        model: its parameters are taken away at once; buffers stay. Tied parameters stay tied.
        device: where `here` brings them.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self._weights = [(p, _pinned(p.data, device)) for p in model.parameters()]  # each once
        self._leave()

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The weights on the device, the same bytes each time; nothing is copied back."""
        for parameter, kept in self._weights:
            parameter.data = torch.empty_like(kept, device=self.device).copy_(kept, non_blocking=True)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        for parameter, kept in self._weights:
            parameter.data = kept


def _pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
    return made.copy_(tensor)


def park(model: torch.nn.Module, device: torch.device) -> Parked | None:
    """The model's weights in host memory beside a GPU; None on a CPU, where they stay as they are."""
    if device.type != "cuda":
        return None
    parked = Parked(model, device)
    torch.cuda.empty_cache()  # the rollout engine looks for what is free
    return parked
