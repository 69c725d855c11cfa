"""Models that vLLM cannot sample from beside a trainer, though it can on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from srt.common.errors import SrtError
from srt.rollout.vllm_isolation import preserve_process_state, set_vllm_environment

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # keys of mixtures of experts


def check_trainable_beside_vllm(folder: str | Path, config: Any) -> None:
    """Refuse, before vLLM starts, a model that it samples from only as long as no trainer is in its process.

    Raises:
        SrtError: says what vLLM does, and the fix.
    """
    if why := _obstacle(config):
        raise SrtError(
            f"{folder}: vLLM cannot sample for the training of model type {config.model_type}: {why}: set "
            "train.rollout_engine to transformers"
        )


def _obstacle(config: Any) -> str | None:
    set_vllm_environment()
    with preserve_process_state():
        from vllm.model_executor.models import registry
    through_transformers = getattr(registry, "_TRANSFORMERS_SUPPORTED_MODELS", {})
    if set(config.architectures or ()) & set(through_transformers):
        return "it has no code of its own for it, and changes the code of transformers that the trainer runs"
    if any(getattr(config, key, None) for key in EXPERTS) and not torch.cuda.is_available():
        return "on a CPU it cannot take new weights of a mixture of experts"
    return None
