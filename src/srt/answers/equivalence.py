"""Whether two canonical answers are the same: True, False, or None if only sympy can tell.

What `decide` leaves open goes to Math-Verify in a comparison process (`comparison_process`), because the work that it
does on a model's text is unbounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from srt.answers import formula_value
from srt.answers.form import EQUATION, FORMULA, LIST, NUMBER, OPAQUE, PLACES, TUPLE, UNION, WORDS, Form

Leaf = Callable[[Form, Form], bool | None]

_TOLERANCE = Fraction(1, 10**5)  # relative, of a value that is rounded
_LONG_DECIMAL = re.compile(rf"\.\d{{{PLACES}}}", re.ASCII)


def _unknown(a: Form, b: Form) -> bool | None:
    return None


def _rounds_to(x: Fraction, y: Fraction) -> bool:
    """Whether one value is an approximation of the other: to six decimals and to a relative error of 1e-5.

    Six decimals alone are too coarse for values below 0.001.
    """
    return abs(x - y) <= _TOLERANCE * max(abs(x), abs(y)) and round(x, PLACES) == round(y, PLACES)


def _same_number(a: Form, b: Form) -> bool:
    """Exact values must be equal; an approximation must equal the other value rounded."""
    x, y = a.value or Fraction(0), b.value or Fraction(0)
    return _rounds_to(x, y) if a.approximate or b.approximate else x == y


def value_of(form: Form) -> formula_value.Value | None:
    """The value of a number or formula at the fixed generic point (`formula_value`); None if uncertain."""
    if form.kind == NUMBER:
        return formula_value.Value(form.value or Fraction(0), frozenset())
    return formula_value.evaluate(form.text) if form.kind == FORMULA else None


def _formulas(a: Form, b: Form, leaf: Leaf) -> bool | None:
    """A formula and a number or formula: by their values if these suffice, else by `leaf`."""
    x, y = value_of(a), value_of(b)
    if x is None or y is None:
        return leaf(a, b)
    if NUMBER in (a.kind, b.kind) and (a.approximate or b.approximate):
        u, v = formula_value.rational(x.number), formula_value.rational(y.number)
        return u is not None and v is not None and _rounds_to(u, v)
    if _LONG_DECIMAL.search(a.text) or _LONG_DECIMAL.search(b.text):  # a rounding inside a formula
        return leaf(a, b) if formula_value.agree(x.number, y.number, bits=15) else False
    if not formula_value.agree(x.number, y.number):
        return False
    if (x.decisive and y.decisive) or formula_value.same_function(a.text, b.text):
        return True
    return leaf(a, b)


def _all(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _any(verdicts: list[bool | None]) -> bool | None:
    return True if True in verdicts else None if None in verdicts else False


def decide(a: Form, b: Form, leaf: Leaf = _unknown) -> bool | None:
    """Whether two forms are the same answer; `leaf` settles pairs of formulas (the default returns None).

    Symmetric. Kinds do not mix: an ordered pair is not a set, a half-open interval is not an open one, words are not a
    formula. This keeps the relation transitive (docs/answers.md).
    """
    if a.text == b.text and a.kind == b.kind:
        return True
    kinds = {a.kind, b.kind}
    if OPAQUE in kinds:
        return False
    if kinds == {NUMBER}:
        return _same_number(a, b)
    if WORDS in kinds:
        # `abc` may have been parsed as a product on one side and as a word on the other.
        return kinds <= {WORDS, FORMULA} and a.text.replace(" ", "").lower() == b.text.replace(" ", "").lower()
    if kinds == {TUPLE}:
        if a.brackets != b.brackets or len(a.items) != len(b.items):
            return False
        return _all([decide(x, y, leaf) for x, y in zip(a.items, b.items, strict=True)])
    if kinds == {LIST} or kinds == {UNION}:
        table = [[decide(x, y, leaf) for y in b.items] for x in a.items]
        columns = [[row[j] for row in table] for j in range(len(b.items))]
        return _all([_any(line) for line in (*table, *columns)])
    if kinds <= {NUMBER, FORMULA}:
        return _formulas(a, b, leaf)
    if EQUATION in kinds:
        other = b if a.kind == EQUATION else a
        # y = 2x + 1 was parsed as the formula 2x + 1; compared with y - 2x = 1 it is an equation again.
        return leaf(a, b) if kinds == {EQUATION} or (other.kind == FORMULA and other.name) else False
    if FORMULA in kinds and not kinds & {NUMBER}:
        return leaf(a, b)  # a matrix against a tuple, x \ne 1 against a union
    return False


def latex_of(form: Form, other: Form) -> str:
    """The LaTeX of a form for a comparison with `other`."""
    return f"{form.name}={form.text}" if form.name and other.kind == EQUATION else form.text
