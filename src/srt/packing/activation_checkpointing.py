"""Which activations the backward pass computes again instead of keeping them: none, the cheap ones, or all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from srt.config.train import Checkpointing


def _keeps(operations: set[Any]) -> Any:
    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = operation in operations
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def expensive_operations() -> set[Any]:
    """Matrix products and attention: nearly all of the FLOP, a small part of the bytes."""
    aten = torch.ops.aten
    operations = {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
    }
    varlen = getattr(torch.ops.torch_attn, "_varlen_attn", None)
    return operations | ({varlen.default} if varlen is not None else set())


def checkpoint_activations(model: Any, mode: Checkpointing) -> None:
    """Switch a transformers model to `mode`; results are bitwise the same where the kernels are deterministic.

    A layer of h hidden and i intermediate values keeps at most 16 h + 4 i (none), 7 h + 2 i (selective: its input and
    the results of matrix products and attention) or h (full: its input) values per token, as
    `srt.cost.memory.ACTIVATIONS` says.
    """
    _switch_off_dropout(model)
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        import torch.nn.attention.varlen  # noqa: F401  # registers its operation

        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keeps(expensive_operations()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    model.train()  # transformers checkpoints in training mode only


def _switch_off_dropout(model: Any) -> None:
    """A model trains without dropout, as it samples without: else the two distributions would differ."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
