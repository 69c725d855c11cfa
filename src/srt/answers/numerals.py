r"""Numerals such as `-1,234.5`, `\frac{3}{4}`, `2\frac{1}{2}` and `1.5 \times 10^3` as exact fractions."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from srt.answers.form import NUMBER, PLACES, Form

INTEGER = re.compile(r"[-+]?\d{1,400}", re.ASCII)
SEPARATED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d*)?", re.ASCII)
_DECIMAL = re.compile(r"([-+]?)\s*(\d*)(?:\.(\d*))?", re.ASCII)
_FRACTION = re.compile(
    r"([-+]?)\s*\\frac\{\s*([-+]?\d+)\s*\}\{\s*([-+]?\d+)\s*\}|([-+]?\d+)\s*/\s*([-+]?\d+)", re.ASCII
)
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|([-+]?)\s*(\d+) (\d+)/(\d+)", re.ASCII)
_SCIENTIFIC = re.compile(
    r"([-+]?\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,3})\s*\}|(\d))", re.ASCII
)
_MAX_DIGITS = 400  # longer numerals are compared as text
_MAX_EXPONENT = 100

Value = tuple[Fraction, bool]  # a number, and whether it is an approximation


def _decimal(match: re.Match[str]) -> Value | None:
    sign, whole, places = match[1], match[2], match[3] or ""
    if not (whole or places):  # a sign or a point alone
        return None
    value = Fraction(int((whole or "0") + places), 10 ** len(places))
    return (-value if sign == "-" else value), len(places) >= PLACES


def _fraction(match: re.Match[str]) -> Value | None:
    sign, top, bottom = (match[1], match[2], match[3]) if match[2] else ("", match[4], match[5])
    if int(bottom) == 0:
        return None
    value = Fraction(int(top), int(bottom))
    return (-value if sign == "-" else value), False


def _mixed(match: re.Match[str]) -> Value | None:
    sign, whole, top, bottom = match.groups()[:4] if match[2] else match.groups()[4:]
    if int(bottom) == 0 or int(top) >= int(bottom):
        return None
    value = int(whole) + Fraction(int(top), int(bottom))
    return (-value if sign == "-" else value), False


def _scientific(match: re.Match[str]) -> Value | None:
    exponent = int(match[2] or match[3])
    return (Fraction(match[1]) * Fraction(10) ** exponent, False) if abs(exponent) <= _MAX_EXPONENT else None


# The first pattern that matches a numeral gives its value.
_NUMERALS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Value | None]], ...] = (
    (_DECIMAL, _decimal),
    (_FRACTION, _fraction),
    (_MIXED, _mixed),
    (_SCIENTIFIC, _scientific),
)


def numeral_value(text: str) -> Value | None:
    """The value of a numeral and whether it is an approximation; None if the text is not exactly one numeral."""
    if len(text) > _MAX_DIGITS:
        return None
    if INTEGER.fullmatch(text):
        return Fraction(int(text)), False
    if SEPARATED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    for pattern, value in _NUMERALS:
        match = pattern.fullmatch(text)
        if match:
            return value(match)
    return None


def number_form(value: Fraction, approximate: bool) -> Form:
    """The form of a number: a fraction such as 5/2, or decimals if it stands for a rounding (0.3333333)."""
    if approximate and value != round(value, PLACES - 1):  # 0.5000000 is 1/2
        places = len(str(value.denominator)) + 1
        while value * 10**places != int(value * 10**places):  # the denominator divides a power of ten
            places += 1
        digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
        text = f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}".rstrip("0")
        return Form(NUMBER, text, value=value, approximate=True)
    return Form(NUMBER, str(value), value=value)
