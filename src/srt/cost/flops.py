"""FLOPs of passes over tokens.

A matrix product of [a, b] and [b, c] counts 2abc. Counted are the linear layers and the two products of causal
attention. Not counted, and below 1 % for real models: norms, activations, rotary embeddings, softmax, the optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srt.cost.shapes import Shape


@dataclass(frozen=True)
class Tokens:
    """What one forward pass computes on.

    body: tokens that go through the layers. head: tokens whose logits are computed. pairs: of a token and one that it
    attends to, itself included.
    """

    body: float
    head: float
    pairs: float

    def times(self, n: float) -> Tokens:
        """The tokens of n such batches."""
        return Tokens(n * self.body, n * self.head, n * self.pairs)


def count_tokens(prompts: Sequence[float], responses: Sequence[float], group: Sequence[int] | None = None) -> Tokens:
    """Tokens of sequences of `prompts[i] + responses[i]` tokens, with logits for the responses only.

    Args:
        prompts, responses: lengths in tokens [N], or their means.
        group: name of each sequence's prompt [N]. The prompt of a group then counts once, as in the packs of
            `srt.packing.pack`. None: every sequence counts with its own prompt, as in trainers that share nothing.
    """
    body = head = pairs = 0.0
    seen: set[int] = set()
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        shared = float(prompt) if group is not None and group[i] in seen else 0.0  # an earlier sequence computed these
        length = float(prompt) + float(response)
        body += length - shared
        head += float(response)
        pairs += (length * (length + 1) - shared * (shared + 1)) / 2
        if group is not None:
            seen.add(group[i])
    return Tokens(body, head, pairs)


def forward_flops(shape: Shape, tokens: Tokens) -> float:
    """FLOPs of one forward pass: 2 per weight and token, and 4 d per pair of tokens (scores and values over d columns).

    The one formula of this project: training's MFU counts its tokens exactly, plan and job requests by their means.
    """
    return 2 * shape.body * tokens.body + 2 * shape.head * tokens.head + 4 * shape.attention * tokens.pairs


def update_flops(
    shape: Shape, tokens: Tokens, *, reference: bool = True, recompute: float | None = None, old_policy: bool = False
) -> float:
    """FLOPs of one update, counted in forward passes: 3 for gradients (forward, backward), and 1 for each of the
    reference policy and the old policy's log-probs in a separate pass; then what the backward pass computes again.

    So about 8N per token, 9.4N with all layers again. The MFU leaves that out, because it measures useful work and not
    how busy the device is (PaLM, arXiv 2204.02311, appendix B).

    Args:
        recompute: share of the layers that the backward pass computes again; None: the MFU's count.
    """
    again = 0.0 if recompute is None else recomputed_flops(shape, tokens, recompute)
    return forward_flops(shape, tokens) * (3 + reference + old_policy) + again


def recomputed_flops(shape: Shape, tokens: Tokens, share: float) -> float:
    """FLOPs of what a backward pass computes again: the head's logits, and this share of the layers.

    A layer's last product is not among them, as no backward pass needs its result and PyTorch stops before it
    (`tests/cost/test_flops.py` counts).
    """
    last = shape.hidden * shape.intermediate / shape.layers
    layers = 2 * (shape.body - last) * tokens.body + 4 * shape.attention * tokens.pairs
    return 2 * shape.head * tokens.head + share * layers
