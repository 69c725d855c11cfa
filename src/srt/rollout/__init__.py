"""Rollout engines, `transformers` and vLLM: responses from the current weights. Imports no training, grading or config.

`protocol` says what every engine promises; `transformers_engine` and `vllm_engine` implement it and are
imported only where they are used.
"""

from __future__ import annotations

from srt.rollout.protocol import (
    GPU_SEQUENCES,
    LENGTH,
    STOP,
    TOLERANCE,
    Checksum,
    Rollout,
    RolloutEngine,
    Sampling,
    sample_key,
    tensor_checksum,
)

__all__ = [
    "GPU_SEQUENCES",
    "LENGTH",
    "STOP",
    "TOLERANCE",
    "Checksum",
    "Rollout",
    "RolloutEngine",
    "Sampling",
    "sample_key",
    "tensor_checksum",
]
