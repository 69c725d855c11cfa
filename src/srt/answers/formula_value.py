r"""The value of a formula, by a small recursive-descent parser: no sympy, no eval, bounded work.

Decides most pairs of formulas without sympy: two closed forms with different values are different answers. Rational
numbers are exact fractions; roots, \pi and functions have 100 digits. A variable gets a fixed rational value that
depends on its name, so formulas in variables are compared at one generic point (Schwartz-Zippel: different polynomials
agree there with probability near 0). The value is None for anything outside this grammar or its size limits, and
where conventions differ (a bare `\log`, real or principal roots).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<symbol>[-+*/:^_!(){}\[\]]))",
    re.ASCII,
)
_GREEK = {
    "\\alpha", "\\beta", "\\gamma", "\\delta", "\\epsilon", "\\theta", "\\lambda", "\\mu", "\\nu", "\\rho", "\\sigma",
    "\\tau", "\\phi", "\\varphi", "\\psi", "\\omega",
}  # fmt: skip
_MAX_CHARS, _MAX_DEPTH = 400, 24
_MAX_BITS = 1 << 15  # of a fraction, and of the exponents of other numbers: 1/2006! fits
_DIGITS = 100  # of numbers that are not rational
_CANCELLED = 266  # a sum that is smaller than its terms by this many bits (80 digits) is zero
_AGREEMENT = 166  # numbers are equal if their difference is smaller by this many bits (50 digits)
_POINTS = 32  # at which functions of real variables are compared

Number = Any  # an int or Fraction, or a real or complex number of mpmath
_EXACT = (int, Fraction)


@cache
def _mp() -> Any:
    """mpmath's functions with 100 digits, in a separate context."""
    import mpmath  # 70 ms, and integers never need it

    context = mpmath.mp.clone()
    context.dps = _DIGITS
    return context


class Value(NamedTuple):
    """The value of a formula and the names of its variables."""

    number: Number
    variables: frozenset[str]

    @property
    def decisive(self) -> bool:
        r"""Whether an equal value makes another formula of this kind the same: a closed form or a rational function.

        Roots and functions of variables are not: \sqrt{x^2} is x at a positive point only.
        """
        return not self.variables or isinstance(self.number, _EXACT)


class _Unknown(Exception):
    """The text is outside the grammar, or its value exceeds the size limits."""


def _variable(name: str, point: int) -> Fraction:
    """The value of a variable at a point: between 1.1 and 1.9 at point 0, elsewhere of any sign and magnitude."""
    digest = hashlib.blake2b(f"{name}\x1f{point}".encode() if point else name.encode(), digest_size=8).digest()
    bits = int.from_bytes(digest, "little")
    fraction = Fraction(11 * 2**37 + (bits >> 27) * 8, 10 * 2**37)
    if not point:
        return fraction
    return (-1) ** (bits & 1) * fraction * Fraction(2) ** (bits % 17 - 5)


class _Parser:
    def __init__(self, text: str, point: int) -> None:
        self.point = point
        self.variables: set[str] = set()
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

    def ratio(self) -> Number:
        """3:4 is 3/4 and a:bc is a/(bc), as in Math-Verify; 1+3:4 is ambiguous."""
        value = self.product()
        while self.peek()[1] == ":":
            self.take()
            value = _quotient(value, self.product())
        return value

    def sum(self) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unknown
        terms = [self.product()]
        while self.peek()[1] in ("+", "-"):
            sign = self.take()[1]
            term = self.product()
            terms.append(term if sign == "+" else -term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else _total(terms)

    def product(self, in_function: bool = False) -> Number:
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
                value = _sized(value * self.signed_power())
            elif text in ("/", "\\div"):
                if in_function:
                    raise _Unknown  # \sin x/2 is ambiguous
                self.take()
                value = _quotient(value, self.signed_power())
                if self.starts_factor():
                    raise _Unknown  # 1/2x is ambiguous
            elif self.starts_factor() and not (in_function and (text in _CIRCULAR or text == "\\log")):
                if kind == "number" or (text == "\\frac" and self.tokens[self.i - 1][0] == "number"):
                    raise _Unknown  # 2 3, or 2\frac12, which may be a mixed number
                value = _sized(value * self.power())
            else:
                break
        return sign * value

    def signed_power(self) -> Number:
        if self.peek()[1] == "-":
            self.take()
            return -self.power()
        return self.power()

    def starts_factor(self) -> bool:
        kind, text = self.peek()
        if kind == "command":
            return text not in ("\\cdot", "\\times", "\\div")
        return kind in ("number", "letter") or text in ("(", "{")

    def power(self) -> Number:
        value = self.atom()
        while self.peek()[1] in ("^", "!"):
            mark = self.take()[1]
            value = _factorial(value) if mark == "!" else _power(value, self.argument())
        return value

    def argument(self) -> Number:
        """A braced group or one token, as after ^."""
        kind, text = self.take()
        if text == "{":
            value = self.sum()
            self.expect("}")
            return value
        if kind == "number":
            if len(text) > 1:
                raise _Unknown  # x^23 is x^2 3 in TeX but may be meant as x^{23}
            return int(text)
        self.i -= 1
        return self.atom()

    def group(self) -> Number:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def atom(self) -> Number:
        kind, text = self.take()
        if kind == "number":
            return Fraction(text) if "." in text else int(text)
        if kind == "letter" or text in _GREEK:
            if text == "e":
                return +_mp().e
            if text == "i":
                return _mp().mpc(0, 1)
            if self.peek()[1] == "(" and text in "fghFGHPQpq":
                raise _Unknown  # a function's value, not a product
            if self.peek()[1] == "_":
                self.take()
                text += "_" + self.subscript()
            self.variables.add(text)
            return _variable(text, self.point)
        if text in ("(", "{"):
            value = self.sum()
            self.expect(")" if text == "(" else "}")
            return value
        if text == "\\pi":
            return +_mp().pi
        if text == "\\frac":
            top = self.group()
            return _quotient(top, self.group())
        if text == "\\sqrt":
            index: Number = 2
            if self.peek()[1] == "[":
                self.take()
                index = self.sum()
                self.expect("]")
            return _root(self.group(), index)
        if text == "\\binom":
            top = self.group()
            return _binomial(top, self.group())
        if text in _CIRCULAR:
            exponent = None
            if self.peek()[1] == "^":
                self.take()
                exponent = self.argument()
            value = _circular(text, self.function_argument())
            if exponent is not None and exponent.real <= 0:
                raise _Unknown  # \sin^{-1}
            return value if exponent is None else _power(value, exponent)
        if text == "\\exp":
            return _power(+_mp().e, self.function_argument())
        if text == "\\ln":
            return _log(self.function_argument())
        if text == "\\log" and self.peek()[1] == "_":
            self.take()
            base = self.argument()
            return _quotient(_log(self.function_argument()), _log(base))
        raise _Unknown

    def function_argument(self) -> Number:
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


def _magnitude(value: Number) -> float:
    """The position of the leading bit: 2**(magnitude - 2) < |value| < 2**(magnitude + 1); -inf for zero."""
    if not value:
        return -math.inf
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Fraction):
        return value.numerator.bit_length() - value.denominator.bit_length()
    return _mp().mag(value)


def _sized(value: Number) -> Number:
    """The value; `_Unknown` if the value is a fraction too long for the next operation."""
    if isinstance(value, _EXACT) and value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise _Unknown
    return value


def _ranged(value: Number) -> Number:
    """The value; `_Unknown` if the value is too large or too small for the next power."""
    if value and abs(_magnitude(value)) > _MAX_BITS:
        raise _Unknown
    return _sized(value)


def _total(terms: list[Number]) -> Number:
    value = terms[0]
    for term in terms[1:]:
        value = _sized(value + term)
    if isinstance(value, _EXACT):
        return value
    return 0 if _magnitude(value) < max(map(_magnitude, terms)) - _CANCELLED else value


def _quotient(top: Number, bottom: Number) -> Number:
    if not bottom:
        raise _Unknown
    if not isinstance(bottom, _EXACT):
        return top * (1 / bottom)  # mpmath does not divide a fraction
    if isinstance(top, _EXACT):
        return _sized(top * Fraction(1, bottom))
    return top * bottom.denominator / bottom.numerator


def _whole(value: Number, least: int, most: int) -> int:
    """The value as an integer between these bounds."""
    if value.imag or not least <= value.real <= most or value.real != int(value.real):
        raise _Unknown
    return int(value.real)


def _factorial(value: Number) -> Number:
    return _sized(math.factorial(_whole(value, 0, 3000)))


def _binomial(n: Number, k: Number) -> Number:
    above = _whole(n, 0, 3000)
    return math.comb(above, _whole(k, 0, above))


def _power(base: Number, exponent: Number) -> Number:
    if not exponent.imag and abs(exponent.real) < 10**6 and exponent.real == int(exponent.real):
        whole = int(exponent.real)
        if not base and whole <= 0:
            raise _Unknown
        if isinstance(base, _EXACT):
            base = Fraction(base) if whole < 0 else base
            bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
            if bits * abs(whole) > _MAX_BITS:
                raise _Unknown
        return _ranged(base**whole)
    if base.imag or base.real <= 0 or _mp().mag(exponent) > _MAX_BITS.bit_length():
        raise _Unknown
    return _ranged(_mp().power(_mp().convert(base), _mp().convert(exponent)))


def _root(value: Number, index: Number) -> Number:
    degree = _whole(index, 2, 100)
    if value.imag or (value.real < 0 and degree != 2):
        raise _Unknown
    return _mp().sqrt(_mp().convert(value)) if degree == 2 else _mp().root(_mp().convert(value), degree)


def _log(value: Number) -> Number:
    if value.imag or value.real <= 0:
        raise _Unknown
    result = _mp().log(_mp().convert(value))
    if value != 1 and _magnitude(result) < -_AGREEMENT:
        raise _Unknown  # so close to 1 that the digits do not suffice
    return result


def _circular(name: str, value: Number) -> Number:
    """A sine, cosine or one of their quotients."""
    argument, size = _mp().convert(value), _magnitude(value)
    if size > 64:
        raise _Unknown
    sine, cosine = (
        0 if _magnitude(result) < min(size, 0) - _CANCELLED else result
        for result in (_mp().sin(argument), _mp().cos(argument))
    )
    return _CIRCULAR[name](sine, cosine)


_CIRCULAR: dict[str, Callable[[Number, Number], Number]] = {
    "\\sin": lambda sine, cosine: sine,
    "\\cos": lambda sine, cosine: cosine,
    "\\tan": _quotient,
    "\\cot": lambda sine, cosine: _quotient(cosine, sine),
    "\\sec": lambda sine, cosine: _quotient(1, cosine),
    "\\csc": lambda sine, cosine: _quotient(1, sine),
}


@lru_cache(maxsize=1 << 15)
def evaluate(text: str, point: int = 0) -> Value | None:
    """The value of a canonical formula at a fixed point, or None if the value is uncertain."""
    if len(text) > _MAX_CHARS or "inf" in text:
        return None
    try:
        parser = _Parser(text, point)
        value = parser.ratio() if ":" in text else parser.sum()
        if parser.peek()[0] != "end":
            return None
        return Value(_ranged(value), frozenset(parser.variables))
    except (_Unknown, ArithmeticError, ValueError):
        return None


def agree(a: Number, b: Number, bits: int = _AGREEMENT) -> bool:
    """Whether two numbers are equal to this many bits; with the default, rational numbers must be exactly equal."""
    if bits == _AGREEMENT and isinstance(a, _EXACT) and isinstance(b, _EXACT):
        return a == b
    return _magnitude(a + -b) <= max(_magnitude(a), _magnitude(b)) - bits


def rational(number: Number) -> Fraction | None:
    """A real number as a fraction; None for a complex one."""
    if isinstance(number, _EXACT):
        return Fraction(number)
    if _magnitude(number.imag) > _magnitude(number) - _AGREEMENT:
        return None
    sign, mantissa, exponent, _ = number.real._mpf_
    return (-1) ** sign * mantissa * Fraction(2) ** exponent


def same_function(a: str, b: str) -> bool:
    r"""Whether two formulas agree wherever they are real, and are real at the same of many points.

    So \sqrt{1/n} is 1/\sqrt{n}, \sqrt{x^2} is not x, and \ln(x^2) is not 2\ln(x). At most two variables, whose signs
    and magnitudes the points cover.
    """
    names = {name for text in (a, b) if (value := evaluate(text)) for name in value.variables}
    if len(names) > 2 or "i" in re.sub(r"\\[A-Za-z]+", "", a + b):
        return False
    agreed = 0
    for point in range(1, _POINTS + 1):
        x, y = (_real_at(text, point) for text in (a, b))
        if (x is None) != (y is None) or (x is not None and not agree(x, y)):
            return False
        agreed += x is not None
    return agreed > 0


def _real_at(text: str, point: int) -> Number | None:
    value = evaluate(text, point)
    return None if value is None or value.number.imag else value.number
