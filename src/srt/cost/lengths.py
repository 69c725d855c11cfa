"""Lengths of prompts and responses, the longest of many responses, and the rounds of prompts that `refill` draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from srt.cost.parameters import Parameters


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a response: the limits that the configuration sets, and means within them."""

    prompt_limit: int
    response_limit: int
    prompt: float
    response: float

    @classmethod
    def of_limits(cls, prompt_limit: int, response_limit: int, assumed: Parameters) -> Lengths:
        """Means in proportion to the limits."""
        prompt, response = assumed.prompt_share * prompt_limit, assumed.response_share * response_limit
        return cls(prompt_limit, response_limit, min(prompt, prompt_limit), min(response, response_limit))

    @property
    def limit(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt_limit + self.response_limit

    @property
    def mean(self) -> float:
        """Mean tokens of a sequence."""
        return self.prompt + self.response


@lru_cache(maxsize=1024)
def length_scale(mean: float, limit: float) -> float:
    """Scale m of an exponential law of lengths, cut at `limit` tokens, whose mean is `mean` tokens.

    The cut law has the mean m (1 - exp(-limit / m)). At a mean of `limit` everything runs to the limit, and m is
    infinite.
    """
    if mean >= limit:
        return math.inf
    lo, hi = mean, mean * 2.0**20
    if hi * (1 - math.exp(-limit / hi)) < mean:
        return math.inf
    for _ in range(80):
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if middle * -math.expm1(-limit / middle) < mean else (lo, middle)
    return (lo + hi) / 2


def longest(sequences: float, mean: float, limit: float) -> float:
    """Expected tokens of the longest of `sequences` responses: m times the harmonic number, at most `limit`.

    >>> longest(512, 670, 3072)  # of 512 responses one always runs to the limit
    3072.0
    """
    scale = length_scale(mean, limit)
    if math.isinf(scale) or sequences < 1:
        return float(limit)
    harmonic = math.log(sequences) + 0.5772156649 + 1 / (2 * sequences) if sequences > 1 else 1.0
    return float(min(limit, scale * harmonic))


def refill_rounds(size: int, kept: float, most: int) -> float:
    """Expected rounds of `size` prompts, each kept with probability `kept`, until `size` are kept; at most `most`.

    >>> round(refill_rounds(16, 0.5, 4), 2), refill_rounds(16, 1.0, 4), refill_rounds(16, 0.0, 4)
    (2.44, 1.0, 4.0)
    """
    return math.fsum(_binomial_below(size * drawn, kept, size) for drawn in range(most))


def _binomial_below(trials: int, p: float, bound: int) -> float:
    """Probability that fewer than `bound` of `trials` succeed."""
    return math.fsum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(min(bound, trials + 1)))
