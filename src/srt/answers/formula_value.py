r"""The numeric value of a formula, by a small recursive-descent parser: no sympy, no eval, bounded work.

Decides most pairs of formulas without sympy: two closed forms with different values are different answers. A variable
gets a fixed value that depends on its name, so formulas in variables are compared at one generic point
(Schwartz-Zippel: different polynomials agree there with probability near 0; a difference is a proof, agreement is
not). The value is None for anything outside this grammar and where conventions differ (a bare `\log`, real or
principal roots).
"""

from __future__ import annotations

import cmath
import hashlib
import math
import re
from functools import lru_cache

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<symbol>[-+*/^_!(){}\[\]]))",
    re.ASCII,
)
_GREEK = {
    "\\alpha", "\\beta", "\\gamma", "\\delta", "\\epsilon", "\\theta", "\\lambda", "\\mu", "\\nu", "\\rho", "\\sigma",
    "\\tau", "\\phi", "\\varphi", "\\psi", "\\omega",
}  # fmt: skip
_FUNCTIONS = {
    "\\sin": cmath.sin, "\\cos": cmath.cos, "\\tan": cmath.tan,
    "\\cot": lambda x: 1 / cmath.tan(x), "\\sec": lambda x: 1 / cmath.cos(x), "\\csc": lambda x: 1 / cmath.sin(x),
}  # fmt: skip
_MAX_CHARS, _MAX_DEPTH, _MAX_MAGNITUDE = 400, 24, 1e100


class _Unknown(Exception):
    """The text is outside the grammar, or its value outside the range in which doubles are precise enough."""


def _variable(name: str) -> complex:
    """A fixed generic value in (1.1, 1.9) for a variable's name; positive, so that roots and powers stay real."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return complex(1.1 + 0.8 * int.from_bytes(digest, "little") / 2**64)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise _Unknown
            self.tokens.append((match.lastgroup or "", match.group(match.lastgroup or 0)))
            position = match.end()
        self.i = 0
        self.depth = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.i] if self.i < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.i += 1
        return token

    def expect(self, symbol: str) -> None:
        if self.take()[1] != symbol:
            raise _Unknown

    def sum(self) -> complex:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unknown
        value = self.product()
        while self.peek()[1] in ("+", "-"):
            sign = self.take()[1]
            term = self.product()
            value = value + term if sign == "+" else value - term
        self.depth -= 1
        return value

    def product(self, in_function: bool = False) -> complex:
        sign = 1
        while self.peek()[1] in ("+", "-"):
            if self.take()[1] == "-":
                sign = -sign
        value = self.power()
        while True:
            kind, text = self.peek()
            if text in ("*", "\\cdot", "\\times"):
                if in_function:
                    break
                self.take()
                value *= self.signed_power()
            elif text in ("/", "\\div"):
                if in_function:
                    raise _Unknown  # \sin x/2 is ambiguous
                self.take()
                value /= self.signed_power()
                if self.starts_factor():
                    raise _Unknown  # 1/2x is ambiguous
            elif self.starts_factor() and not (in_function and (text in _FUNCTIONS or text == "\\log")):
                if kind == "number" or (text == "\\frac" and self.tokens[self.i - 1][0] == "number"):
                    raise _Unknown  # 2 3, or 2\frac12, which may be a mixed number
                value *= self.power()
            else:
                break
        return sign * value

    def signed_power(self) -> complex:
        if self.peek()[1] == "-":
            self.take()
            return -self.power()
        return self.power()

    def starts_factor(self) -> bool:
        kind, text = self.peek()
        if kind == "command":
            return text not in ("\\cdot", "\\times", "\\div")
        return kind in ("number", "letter") or text in ("(", "{")

    def power(self) -> complex:
        value = self.atom()
        while self.peek()[1] in ("^", "!"):
            mark = self.take()[1]
            value = _factorial(value) if mark == "!" else _power(value, self.argument())
        return value

    def argument(self) -> complex:
        """A braced group or one token, as after ^."""
        kind, text = self.take()
        if text == "{":
            value = self.sum()
            self.expect("}")
            return value
        if kind == "number":
            if len(text) > 1:
                raise _Unknown  # x^23 is x^2 3 in TeX but may be meant as x^{23}
            return complex(float(text))
        self.i -= 1
        return self.atom()

    def group(self) -> complex:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def atom(self) -> complex:
        kind, text = self.take()
        if kind == "number":
            return complex(float(text))
        if kind == "letter" or text in _GREEK:
            if text == "e":
                return complex(math.e)
            if text == "i":
                return 1j
            if self.peek()[1] == "(" and text in "fghFGHPQpq":
                raise _Unknown  # a function's value, not a product
            if self.peek()[1] == "_":
                self.take()
                text += "_" + self.subscript()
            return _variable(text)
        if text in ("(", "{"):
            value = self.sum()
            self.expect(")" if text == "(" else "}")
            return value
        if text == "\\pi":
            return complex(math.pi)
        if text == "\\frac":
            top = self.group()
            return top / self.group()
        if text == "\\sqrt":
            index = complex(2)
            if self.peek()[1] == "[":
                self.take()
                index = self.sum()
                self.expect("]")
            return _root(self.group(), index)
        if text == "\\binom":
            top = self.group()
            return _binomial(top, self.group())
        if text in _FUNCTIONS:
            exponent = None
            if self.peek()[1] == "^":
                self.take()
                exponent = self.argument()
            value = _FUNCTIONS[text](self.function_argument())
            if exponent is not None and exponent.real <= 0:
                raise _Unknown  # \sin^{-1}
            return value if exponent is None else value**exponent
        if text == "\\ln":
            return _log(self.function_argument())
        if text == "\\log" and self.peek()[1] == "_":
            self.take()
            base = self.argument()
            return _log(self.function_argument()) / _log(base)
        raise _Unknown

    def function_argument(self) -> complex:
        if self.peek()[1] in ("(", "{"):
            return self.power()
        return self.product(in_function=True)

    def subscript(self) -> str:
        kind, text = self.take()
        if text == "{":
            name = ""
            while self.peek()[1] not in ("}", ""):
                name += self.take()[1]
            self.expect("}")
            return name
        if kind not in ("number", "letter"):
            raise _Unknown
        return text


def _factorial(value: complex) -> complex:
    if value.imag or value.real < 0 or value.real > 60 or value.real != int(value.real):
        raise _Unknown
    return complex(math.factorial(int(value.real)))


def _binomial(n: complex, k: complex) -> complex:
    if n.imag or k.imag or not 0 <= k.real <= n.real <= 300 or n.real != int(n.real) or k.real != int(k.real):
        raise _Unknown
    return complex(math.comb(int(n.real), int(k.real)))


def _power(base: complex, exponent: complex) -> complex:
    whole = not exponent.imag and exponent.real == int(exponent.real) and abs(exponent.real) < 1e6
    if not whole and (base.imag or base.real < 0):
        raise _Unknown
    return base ** int(exponent.real) if whole else base**exponent


def _root(value: complex, index: complex) -> complex:
    if index.imag or index.real != int(index.real) or not 2 <= index.real <= 100:
        raise _Unknown
    if value.imag or (value.real < 0 and index.real != 2):
        raise _Unknown
    return cmath.sqrt(value) if index.real == 2 else value ** (1 / index.real)


def _log(value: complex) -> complex:
    if value.imag or value.real <= 0:
        raise _Unknown
    return complex(math.log(value.real))


@lru_cache(maxsize=1 << 15)
def evaluate(text: str) -> complex | None:
    """The value of a canonical formula at the fixed point, or None if it is uncertain."""
    if len(text) > _MAX_CHARS or "inf" in text:
        return None
    try:
        parser = _Parser(text)
        value = parser.sum()
        if parser.peek()[0] != "end":
            return None
        size = abs(value)
        return value if size < _MAX_MAGNITUDE else None
    except (_Unknown, ArithmeticError, ValueError):
        return None


def differ(a: complex, b: complex) -> bool:
    """Whether two values are certainly different answers: further apart than any tolerated rounding."""
    return abs(a - b) > 2e-6 + 1e-9 * max(abs(a), abs(b))


def agree(a: complex, b: complex) -> bool:
    """Whether two values of closed forms agree to all digits that doubles preserve through a formula."""
    return abs(a - b) <= 1e-12 * max(abs(a), abs(b), 1e-3)


def is_decisive(text: str) -> bool:
    r"""Whether `agree` at the generic point is enough to call this formula equal to another one.

    It is for closed forms (no variables besides \pi, e, i) and for rational functions of variables: the probability
    that two different ones agree to twelve digits at a generic point is negligible. It is not for roots and functions
    of variables (\sqrt{x^2} is x at a positive point), which are left to sympy.
    """
    bare = re.sub(r"\\(?:frac|cdot|times|div)(?![A-Za-z])", " ", text)
    if not re.search(r"[\\!]|\^[^0-9]", bare):
        return True
    bare = re.sub(r"\\(?:sqrt|pi|binom|sin|cos|tan|cot|sec|csc|ln|log)(?![A-Za-z])", " ", bare)
    return not re.search(r"[A-Za-df-hj-z\\]", bare)
