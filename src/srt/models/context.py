"""The lengths up to which a model's forward pass is one function of a sequence alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srt.common.errors import SrtError


def fixed_context(config: Any) -> int | None:
    """The longest sequence whose rotary embedding does not depend on the longest sequence of its batch; None: any.

    The types `longrope` (Phi-3) and `dynamic` have other factors beyond the original context, for all sequences of a
    forward pass that has one so long, and keep them for what a cache holds.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    layers = list(rope.values()) if rope and all(isinstance(v, dict) for v in rope.values()) else [rope]
    limits = [
        values.get("original_max_position_embeddings") or config.max_position_embeddings
        for values in layers
        if values.get("rope_type") == "longrope" or "dynamic" in str(values.get("rope_type"))
    ]
    return min(limits, default=None)


def check_context(folder: str | Path, config: Any, tokens: int) -> None:
    """Refuse sequences of up to `tokens` tokens if what a model computes of one depended on others.

    Raises:
        SrtError: names the limit and the keys.
    """
    limit = fixed_context(config)
    if limit is not None and tokens > limit:
        raise SrtError(
            f"{folder}: its rotary embedding changes for a whole batch beyond {limit} tokens, but max_prompt_tokens + "
            f"max_new_tokens is {tokens}: lower them to {limit} together"
        )
