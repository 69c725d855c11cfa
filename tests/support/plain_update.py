"""An optimizer without DeepSpeed, and a policy with its reference in double precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from srt.config.train import Train
from srt.distributed.world import World
from support.tiny_models import double_norm, make_model

ALONE = World(0, 1, torch.device("cpu"))


class Plain:
    """AdamW without DeepSpeed that keeps the gradients of every step."""

    def __init__(self, model: torch.nn.Module, lr: float = 1e-2) -> None:
        self.model, self.lr = model, lr
        self.steps: list[dict[str, torch.Tensor]] = []
        self.norms: list[bool] = []

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        loss.backward()
        self.norms.append(last)

    def step(self) -> tuple[float, bool]:
        self.steps.append({name: p.grad.clone() for name, p in self.model.named_parameters()})
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()]))
        with torch.no_grad():
            for p in self.model.parameters():
                p -= self.lr * p.grad
                p.grad = None
        return norm, True


def hyperparameters(**changes: Any) -> dict[str, Any]:
    base = {"kl_coefficient": 0.05, "temperature": 0.8, "micro_batch_tokens": 25, "micro_batch_sequences": 6,
            "dtype": "float32"}  # fmt: skip
    return Train(**{**base, "rollouts_per_prompt": 4, "rollouts_trained": 4, **changes}).resolved().model_dump()


def policy_and_reference(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A tiny Qwen2 in double precision throughout, and a frozen copy with slightly different weights."""
    monkeypatch.setattr(Qwen2RMSNorm, "forward", double_norm)
    model = make_model(dtype="float64")
    reference = copy.deepcopy(model).requires_grad_(False)
    torch.manual_seed(7)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model, reference
