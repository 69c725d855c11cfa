"""Whether two sympy expressions differ by more than their precision explains, at 50 digits.

Math-Verify compares numbers with an absolute tolerance, so it calls all tiny numbers equal. What it finds equal is
checked here. Runs in the comparison processes, under their limits of time and memory.
"""

from __future__ import annotations

from typing import Any

_DIGITS = 60
_EXACT, _ROUNDED = 1e-50, 1e-5  # relative tolerances without and with a decimal fraction in the formulas


def apart(a: Any, b: Any) -> bool:
    """Whether the values of two expressions, matrices or equations certainly differ; False if that is unknown.

    Symbols get two sets of rational values. Equations may be multiples of one another, so they differ only if the ratio
    of their sides' differences is nearly, but not exactly, the same for both sets.
    """
    from sympy import Eq, Expr, Float, MatrixBase

    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase) and a.shape == b.shape:
        return any(apart(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))
    if isinstance(a, Eq) and isinstance(b, Eq):
        f, g = a.lhs - a.rhs, b.lhs - b.rhs
    elif isinstance(a, Expr) and isinstance(b, Expr):
        f, g = a, b
    else:
        return False
    tolerance = _ROUNDED if f.has(Float) or g.has(Float) else _EXACT
    names = sorted({symbol.name for symbol in f.free_symbols | g.free_symbols})
    values = [[_value(side, names, point) for side in (f, g)] for point in (0, 1)]
    if any(value is None for pair in values for value in pair):
        return False
    (x, y), (u, v) = values
    if f is a:
        return _far(x, y, tolerance) or _far(u, v, tolerance)
    return _far(x * v, u * y, tolerance) and not _far(x * v, u * y, 1e-9)


def _value(expression: Any, names: list[str], point: int) -> Any:
    """The value to 60 digits with the symbols at a point; None if it is not a number."""
    from sympy import Derivative, Float, I, Integral, Limit, Product, Rational, Sum

    numbers = {name: Rational(1000003 + 7919 * (3 * i + point), 700001) for i, name in enumerate(names)}
    known = expression.subs({symbol: numbers[symbol.name] for symbol in expression.free_symbols}).doit()
    if known.has(Derivative, Integral, Limit, Product, Sum):
        return None  # numerical methods cost much and give few digits
    value = known.evalf(_DIGITS)
    parts = value.as_real_imag()
    if not all(part.is_Number and part.is_finite for part in parts):
        return None
    # one bit of precision is sympy's mark of a sum that cancelled
    real, imaginary = (0 if isinstance(part, Float) and part._prec == 1 else part for part in parts)
    return real + I * imaginary


def _far(x: Any, y: Any, tolerance: float) -> bool:
    return bool(abs(x - y) > tolerance * max(abs(x), abs(y)))
