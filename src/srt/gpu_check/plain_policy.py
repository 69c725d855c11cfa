"""A policy without DeepSpeed: one process, AdamW on float32 masters. For machines that lack DeepSpeed, in checks only.

It does what ZeRO 1 does on one process, so that the rest of the trainer can be checked on an image with PyTorch alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from srt.training.rl_trainer import RLTrainer


class PlainPolicy:
    """`srt.training.update.Policy`, and what a trainer reads of `srt.distributed.deepspeed_engine.DeepSpeedEngine`."""

    def __init__(self, model: torch.nn.Module, train: dict[str, Any]) -> None:
        self.model: Any = model
        self.parameters = sum(p.numel() for p in model.parameters())
        self._own = [p for p in model.parameters() if p.requires_grad]
        self._masters = [p.detach().float().clone() for p in self._own]
        self._clip = train["grad_clip"]
        self._adamw = torch.optim.AdamW(
            self._masters, lr=train["learning_rate"], betas=tuple(train["betas"]), weight_decay=train["weight_decay"]
        )

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient to a sum in float32."""
        loss.backward()
        for parameter, master in zip(self._own, self._masters, strict=True):
            if parameter.grad is not None:
                master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
                parameter.grad = None

    def step(self) -> tuple[float, bool]:
        """Clip and update; return the norm and whether the update was made."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self._clip))
        made = math.isfinite(norm)
        if made:
            self._adamw.step()
            with torch.no_grad():
                for parameter, master in zip(self._own, self._masters, strict=True):
                    parameter.copy_(master)
        self._adamw.zero_grad(set_to_none=True)
        return (norm if made else math.nan), made

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """All weights are here at any time."""
        yield

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors as in a Hugging Face checkpoint."""
        yield from ((name, p.data) for name, p in self.model.named_parameters())


class PlainTrainer(RLTrainer):
    """The RL trainer with a `PlainPolicy`."""

    def make_policy(self, model: Any) -> Any:
        """Without DeepSpeed."""
        return PlainPolicy(model, self.train)
