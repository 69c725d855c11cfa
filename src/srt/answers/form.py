"""The canonical form of an answer: its kind and one text for each meaning."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

NUMBER, LIST, TUPLE, UNION, WORDS, EQUATION, FORMULA, OPAQUE = (
    "number", "list", "tuple", "union", "words", "equation", "formula", "opaque",
)  # fmt: skip

PLACES = 6  # decimals that an approximation must get right, as in Math-Verify


@dataclass(frozen=True, slots=True)
class Form:
    """A canonical answer. Equal `kind` and `text` mean the same answer.

    `value` is set for numbers, with `approximate` for one that stands for a rounding; `items` and `brackets` for
    structures; `name` is the left side of an assignment to a formula.
    """

    kind: str
    text: str
    value: Fraction | None = None
    approximate: bool = False
    items: tuple[Form, ...] = ()
    brackets: str = ""
    name: str = ""
