"""What transformers passes to an attention function beside queries, keys and values, and what nothing here knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srt.common.errors import SrtError

# Without an effect on the result of an attention function
IDLE = frozenset(
    {"position_ids", "use_cache", "cache_position", "output_attentions", "output_hidden_states", "return_dict"}
)


def refuse_unknown(module: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse a layer that passes `arguments` which would be ignored: others than IDLE with a value.

    Raises:
        SrtError: names the layer's class and the arguments.
    """
    names = sorted(name for name, x in arguments.items() if name not in IDLE and not _is_nothing(x))
    if names:
        raise SrtError(
            f"{type(module).__name__} passes {', '.join(names)} to attention, which is not known here: choose another "
            "model"
        )


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, float) and value == 0.0)
