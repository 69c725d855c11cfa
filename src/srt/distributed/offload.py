"""A read-only model whose weights are in host memory except while it computes: the KL's reference model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


class OffloadedModel:
    """A read-only model whose weights are in pinned host memory, and on the device inside `on_device`.

    Args:
        model: its parameters leave the device at once; its buffers stay. Tied parameters stay tied.
        device: where `on_device` copies the parameters to.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self._weights = [(p, _pinned(p.data, device)) for p in model.parameters()]  # a tied parameter once
        self._return_to_host()

    @contextlib.contextmanager
    def on_device(self) -> Iterator[None]:
        """Keep the weights on the device for the block, the same bytes each time; nothing is copied back."""
        for parameter, host in self._weights:
            parameter.data = torch.empty_like(host, device=self.device).copy_(host, non_blocking=True)
        try:
            yield
        finally:
            self._return_to_host()

    def _return_to_host(self) -> None:
        for parameter, host in self._weights:
            parameter.data = host


def _pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
    return host.copy_(tensor)


def offload(model: torch.nn.Module, device: torch.device) -> OffloadedModel | None:
    """Move the model's weights to host memory; None on a CPU, where there is nothing to move."""
    if device.type != "cuda":
        return None
    offloaded = OffloadedModel(model, device)
    torch.cuda.empty_cache()  # the rollout engine measures the free memory
    return offloaded
