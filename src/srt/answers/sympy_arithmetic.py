"""Plain arithmetic (`3*(1/2)`, `2**3`) to an unevaluated sympy expression, without `eval`.

Replaces sympy's `parse_expr` in the comparison processes: Math-Verify calls it on text that its pattern limits to
digits and operators, and `parse_expr` ends in `eval`. The grammar is the same (Python's precedence). Anything that is
not arithmetic raises ValueError, which Math-Verify treats as unreadable.
"""

# ruff: noqa: RUF001 - the look-alike characters are the point

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\*\*|//|[-+*/()×÷]))", re.ASCII)
_MAX_CHARS, _MAX_DEPTH = 2000, 40


def parse_arithmetic(text: str) -> Any:
    """Parse numbers, + - * / ** and brackets to a sympy expression, unevaluated as with evaluate=False."""
    from sympy import Add, Expr, Float, Integer, Mul, Pow

    tokens: list[str] = []
    position, text = 0, text.strip()
    if len(text) > _MAX_CHARS:
        raise ValueError("too long")
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token:
            raise ValueError("not arithmetic")
        tokens.append(token.group(1) or token.group(2))
        position = token.end()
    i = depth = 0

    def peek() -> str:
        return tokens[i] if i < len(tokens) else ""

    def take() -> str:
        nonlocal i
        i += 1
        return tokens[i - 1] if i <= len(tokens) else ""

    def total() -> Expr:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        value = product()
        while peek() in ("+", "-") and peek():
            sign, term = take(), product()
            value = Add(value, term if sign == "+" else Mul(-1, term, evaluate=False), evaluate=False)
        depth -= 1
        return value

    def product() -> Expr:
        value = unary()
        while peek() in ("*", "/"):
            sign, factor = take(), unary()
            value = Mul(value, factor if sign == "*" else Pow(factor, -1, evaluate=False), evaluate=False)
        return value

    def unary() -> Expr:
        if peek() in ("+", "-") and peek():
            sign, value = take(), unary()
            return value if sign == "+" else Mul(-1, value, evaluate=False)
        return power()

    def power() -> Expr:
        base = atom()
        if peek() == "**":
            take()
            return Pow(base, unary(), evaluate=False)
        return base

    def atom() -> Expr:
        token = take()
        if token == "(":
            value = total()
            if take() != ")":
                raise ValueError("unbalanced")
            return value
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise ValueError("not arithmetic")
        return Float(token) if "." in token else Integer(int(token))

    result = total()
    if i != len(tokens):
        raise ValueError("not arithmetic")
    return result
