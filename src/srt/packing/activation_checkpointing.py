"""Which activations the backward pass computes again instead of keeping them: none, the cheap ones, or all.

The policy between them is a mixture by layer: the last ones keep as much as `selective`, the others as much as `full`,
and as many keep it as a number of bytes allows (`ActivationRoom`). Results are the same with any number of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from srt.cost.memory import holds, kept_layers

if TYPE_CHECKING:
    from srt.config.train import Checkpointing
    from srt.cost.shapes import Shape


def _keeps(operations: set[Any], intermediate: int | None) -> Any:
    """A policy that keeps the results of `operations`, except of products whose rows have `intermediate` values.

    These are the last ones of layers, whose results no backward pass needs: PyTorch ends the second pass before them.
    """

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = operation in operations and not _is_last(operation, args, intermediate)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _is_last(operation: Any, args: tuple[Any, ...], intermediate: int | None) -> bool:
    aten = torch.ops.aten
    return operation in (aten.mm.default, aten.addmm.default) and args[-2].shape[-1] == intermediate


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

    Layers keep as many bytes per token as `srt.cost.memory.token_bytes` says: of all that they compute (none), of their
    inputs and the results of matrix products and attention (selective), or of their inputs (full).
    """
    _switch_off_dropout(model)
    if mode == "none":
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=_options(model, mode))
    model.train()  # transformers checkpoints in training mode only


def _options(model: Any, mode: Checkpointing) -> dict[str, Any]:
    """Of `torch.utils.checkpoint.checkpoint`."""
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        import torch.nn.attention.varlen  # noqa: F401  # registers its operation

        keeps = _keeps(expensive_operations(), getattr(model.config, "intermediate_size", None))
        options["context_fn"] = partial(create_selective_checkpoint_contexts, keeps)
    return options


class ActivationRoom:
    """Bytes in which layers of a model with checkpointing `full` may keep their activations.

    Args:
        model: a transformers model after `checkpoint_activations(model, "full")`.
        room: bytes for all activations that are kept for a backward pass.
    """

    def __init__(self, model: Any, shape: Shape, dtype: str, room: float) -> None:
        self.shape, self.dtype, self.room = shape, dtype, room
        self._layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        self._modes = [partial(checkpoint, **_options(model, mode)) for mode in ("full", "selective")]  # type: ignore[arg-type]

    def holds(self, tokens: int) -> bool:
        """Whether the room holds the graphs of `tokens` tokens, if no layer keeps more than with `full`."""
        return holds(self.shape, self.dtype, tokens, self.room)

    def use(self, tokens: int) -> int:
        """Let the next forward passes, of `tokens` tokens until the backward pass, use the room; how many layers keep.

        The last layers keep, as their memory is free again when those before are computed again.
        """
        count = kept_layers(self.shape, self.dtype, tokens, self.room)
        for number, layer in enumerate(self._layers):
            layer._gradient_checkpointing_func = self._modes[number >= len(self._layers) - count]
        return count


def _switch_off_dropout(model: Any) -> None:
    """A model trains without dropout, as it samples without: else the two distributions would differ."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
