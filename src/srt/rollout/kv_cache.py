"""The key-value cache of the transformers engine: preallocated columns that all rows of a batch share.

Every row writes its next token into the same column, whatever its length. A row that joins late has its prompt placed
to end in the current column, and the columns before the prompt are masked. So a decode step writes one slice and
attention reads one slice, without an index per row. Columns that no unfinished row needs are left out of the slice;
when the buffer is full, the columns still in use move to the front.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from srt.rollout.attention_arguments import refuse_unknown

ATTENTION = "srt_shared_kv"
OWN = "eager"  # a model's own attention in single operations


class ColumnLayer(DynamicLayer):
    """One layer's cache: buffers [slots, heads, capacity, size]; `keys` and `values` are columns `low` to `filled`.

    Args:
        like: keys or values of a prefill, [*, heads, *, size], for shape, type and device.
        slots, capacity: rows and columns of the buffers.
        filled: the column after the last one in use.
        zero: fill the buffers with zeros, for when columns are read before they are written: they are masked, but NaN
            would pass through a mask.
    """

    def __init__(self, like: torch.Tensor, slots: int, capacity: int, filled: int, zero: bool) -> None:
        super().__init__()
        make = like.new_zeros if zero else like.new_empty
        self.key_buffer = make(slots, like.shape[1], capacity, like.shape[3])
        self.value_buffer = make(slots, like.shape[1], capacity, like.shape[3])
        self.low, self.filled = 0, filled
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        self._expose()

    def _expose(self) -> None:
        self.keys = self.key_buffer[:, :, self.low : self.filled]
        self.values = self.value_buffer[:, :, self.low : self.filled]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of the next tokens of all rows, [slots, heads, new, size]; return the columns in use."""
        end = self.filled + key_states.shape[-2]
        self.key_buffer[:, :, self.filled : end] = key_states
        self.value_buffer[:, :, self.filled : end] = value_states
        self.filled = end
        self._expose()
        return self.keys, self.values

    def place(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put prompts [rows, heads, width, size] into these slots; their last token goes into the last used column."""
        width = keys.shape[2]
        for buffer, new in ((self.key_buffer, keys), (self.value_buffer, values)):
            columns = buffer[:, :, self.filled - width : self.filled]
            if len(slots) == len(buffer):  # the first prompts of a batch: all slots in order
                columns.copy_(new)
            else:
                columns.index_copy_(0, slots, new)

    def forget(self, low: int) -> None:
        """Exclude the columns before `low` from now on."""
        self.low = low
        self._expose()

    def rewind(self) -> None:
        """Move the columns in use to the front."""
        width = self.filled - self.low
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[:, :, :width] = buffer[:, :, self.low : self.filled].clone()
        self.low, self.filled = 0, width
        self._expose()

    def shift(self, columns: int) -> None:
        """Move the columns in use to the right by `columns`."""
        start, end = self.low + columns, self.filled + columns
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[:, :, start:end] = buffer[:, :, self.low : self.filled].clone()
        self.low, self.filled = start, end
        self._expose()

    def keep(self, slots: torch.Tensor) -> None:
        """Keep only these slots."""
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            new = old.new_empty(len(slots), *old.shape[1:])
            new[:, :, self.low : self.filled] = old[slots, :, self.low : self.filled]
            setattr(self, name, new)
        self._expose()


def shared_kv_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a decode step that reads each key-value head once for all its query heads, without repeat_kv.

    A sliding window is part of the mask.
    """
    refuse_unknown(module, {**kwargs, "dropout": dropout})
    if query.shape[2] != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal)
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, size)
    mask = None if attention_mask is None else attention_mask[..., -1:, : key.shape[2]]
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, 1, heads, size), None


def decode_attention(model: Any) -> str:
    """ATTENTION where it computes what the model says, else the model's OWN, which is slower.

    Own are attentions that cannot be replaced (ALiBi), and those with sinks or a soft cap of the scores.
    """
    replaceable = getattr(model, "_supports_attention_backend", False) and model._supports_sdpa
    return ATTENTION if replaceable and not getattr(model.config, "attn_logit_softcapping", None) else OWN


AttentionInterface.register(ATTENTION, shared_kv_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
