"""Drawing tokens by inverse transform sampling, from uniform numbers that are pure functions of a sample's key."""

from __future__ import annotations

import numpy as np
import torch

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(keys: np.ndarray, length: int) -> np.ndarray:
    """Uniform numbers in [0, 1): float64 [rows, length], a pure function of each row's 64-bit key (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64)[:, None] + GOLDEN * np.arange(1, length + 1, dtype=np.uint64)[None, :]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_tokens(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row of logits [rows, V]: the inverse of the cumulative distribution at `uniform` [rows].

    Returns token ids [rows] and their log-probabilities [rows] under the sampling distribution.
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(uniform, dtype=torch.float32)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, index, ordered)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    target = uniform.to(cumulative.dtype).unsqueeze(-1) * total
    # 1 - 2^-53 rounds to 1 in float32. Keep the target below the total, or the last token would be drawn even with
    # probability 0.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0].log()
