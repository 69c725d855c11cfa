"""The reference: the frozen model that the policy is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from srt.distributed.offload import OffloadedModel, offload
from srt.distributed.world import World
from srt.models.checkpoint import load_model
from srt.packing.logprobs import response_logprobs
from srt.packing.pack import Pack
from srt.training.segment import Segment


class Reference:
    """The frozen model that the policy is compared with.

    Args:
        offloaded: its weights if they are in host memory between passes. The passes over a batch then come first and
            together, so that the weights are off the device before there are graphs. None: they stay on the device.
    """

    def __init__(self, model: Any, offloaded: OffloadedModel | None = None) -> None:
        self.model, self.offloaded = model, offloaded
        self._ahead: dict[tuple[int, ...], Tensor] = {}  # by the rows of a pack

    def score_ahead(self, packs: Iterable[Pack], temperature: float) -> None:
        """Compute and keep the log-probs of a batch's packs; call it first if the reference is offloaded."""
        assert self.offloaded is not None
        with torch.no_grad(), self.offloaded.on_device():
            self._ahead = {tuple(p.rows): response_logprobs(self.model, p, temperature)[0] for p in packs}

    def logprobs(self, p: Pack, temperature: float) -> Tensor:
        """Log-probs [b, R] of a pack's responses, without gradient inside `torch.no_grad`."""
        if self.offloaded is not None:
            return self._ahead.pop(tuple(p.rows))
        return response_logprobs(self.model, p, temperature)[0]


def load_reference(segment: Segment, world: World) -> Reference:
    """The base model of a run, frozen; in host memory between its passes if the segment has `reference_offload`."""
    model, *_ = load_model(segment.base, segment.spec["train"]["dtype"], world.device)
    model.requires_grad_(False)
    return Reference(model, offload(model, world.device) if segment.reference_offload else None)
