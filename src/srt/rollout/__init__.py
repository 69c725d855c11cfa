"""Sampling responses: one small protocol, two engines (`transformers` here and on CPU, `vllm` on GPUs).

An engine draws `n` responses for each prompt from the current weights and returns token ids with the log-probability
of each sampled token under the *sampling* distribution (after temperature, before nothing else).

Seeds are stateless: what sample `i` of a prompt looks like depends on (`Sampling.seed`, the prompt's key, `i`) and on
the weights alone, never on the batch that it shared or on what was drawn before. So a resumed run repeats the
undisturbed one without saving any engine state, and two seeds differ.
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
Checksum = tuple[float, float]  # sum and absolute sum of a tensor, in float64


@dataclass(frozen=True)
class Sampling:
    """How to draw. `n` samples a prompt; `temperature` 0 is greedy; at most `max_new_tokens` each, the first
    end-of-sequence token included; `seed` is the run's (and step's) seed."""

    n: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Rollout:
    """One response: `token_ids` int32 [T] with the end token if it came, `logprobs` float32 [T], and why it ended."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: str  # STOP: the end token was drawn; LENGTH: cut at max_new_tokens


class Engine(Protocol):
    """What the trainer and the sampler ask of an engine."""

    def generate(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """Draw `sampling.n` responses for each prompt (token ids); `keys[p]` names prompt p in the seed."""
        ...

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's weights (names as in a Hugging Face checkpoint) before the next generate."""
        ...

    def rest(self) -> None:
        """Nothing is sampled until the next `update_weights`: an engine that sleeps gives its memory back."""
        ...

    def checksums(self) -> dict[str, Checksum]:
        """Sum and absolute sum of every weight that the engine samples with, by the trainer's names.

        Read from where the engine's own forward pass reads it: fused and packed tensors are taken apart. A tensor that
        the engine keeps twice (a tied head of its own) is there under both names. Costs about two reads of the weights.
        """
        ...

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray], temperature: float
    ) -> list[np.ndarray]:
        """The engine's log-probs (float32 [T], at this temperature > 0) of given responses (token ids [T], T >= 1).

        One prefill a response, nothing shared: meant for a probe of a few responses, not for a batch of rollouts.
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
    """Sum and absolute sum in float64. Equal values give equal sums to some 1e-15 of the absolute sum, in any layout.

    What it cannot see: values that changed places within one tensor.
    """
    import torch

    values = tensor.detach().flatten()
    total = values.sum(dtype=torch.float64)
    return float(total), float(torch.linalg.vector_norm(values, ord=1, dtype=torch.float64))
