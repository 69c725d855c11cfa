r"""The canonical form of an answer: what it is (number, list, tuple, words, formula) and one text for each meaning.

Cheap, pure and deterministic, without sympy. Two answers with the same canonical text are the same answer. Two numbers,
words, or structures of numbers with different texts are different answers. Only formulas with different texts are left
to `equivalence`. Conventions (docs/answers.md gives the reasons):

- percent, degree and currency signs and units are dropped and the value kept: 28 % = 28, so 28 % ≠ 0.28;
- `x = 5` and `x \in S` are their right sides; `a < x \le b` is the interval `(a,b]`, whatever the variable's name;
- `(a,b)` is ordered (a point or an open interval), `[a,b)` is a half-open interval, `{a,b}` and `a,b` are unordered;
- `1,234` alone is one number; inside brackets a comma separates;
- a decimal with fewer than six places is exact, one with more is an approximation (0.333333 = 1/3, 0.33 ≠ 1/3).
"""

# ruff: noqa: RUF001 - the look-alike characters are the point

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from srt.answers.extract import MAX_ANSWER_CHARS
from srt.answers.form import EQUATION, FORMULA, LIST, OPAQUE, TUPLE, UNION, WORDS, Form
from srt.answers.normalise import normalise
from srt.answers.numerals import INTEGER, SEPARATED, number_form, numeral_value

_MAX_DEPTH = 8
_MAX_ITEMS = 200

_RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>]")
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]{2,8})(?:_(?:\w|\{\w{1,10}\}))?'*", re.ASCII)
_SUBSCRIPT = re.compile(r"_(?:\w|\{[^{}]*\})")
_ASSIGN = re.compile(r":=|=|\\approx(?![A-Za-z])|\\in(?![A-Za-z])|\\equiv(?![A-Za-z])")
# Words: letters, full stops and apostrophes; a hyphen only inside a word (p - q is a difference).
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|['’. \-])*")
_LOOSE_HYPHEN = re.compile(r"(?<![^\W\d_][^\W\d_])-|-(?![^\W\d_][^\W\d_])")
_CHOICE = re.compile(r"\(\s*([A-J])\s*\)\s*[A-Za-z][A-Za-z ,.'-]*")  # "(C) Plane": the letter is the answer
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|max|min|mod)")
_PLAIN_COMMAND = re.compile(r"\\([A-Za-z]+)\s+(?=[^A-Za-z])")
_SPACED_DIGITS = re.compile(r"\d \d")
_LETTER = re.compile(r"[A-Za-z]")


@lru_cache(maxsize=1 << 16)
def parse(answer: str) -> Form:
    """The canonical form of an answer as extracted. Never raises."""
    if len(answer) > MAX_ANSWER_CHARS:
        return Form(OPAQUE, answer)
    if INTEGER.fullmatch(answer):  # nearly every answer of AIME, AMC, DAPO and GSM8K
        return number_form(Fraction(int(answer)), False)
    text, is_text = normalise(answer)
    if not text:
        return Form(OPAQUE, answer.strip())
    return _parse(text, _Context(is_text))


def canonical(answer: str) -> str:
    r"""The canonical text: equal for answers that this module knows to be the same; a second call leaves it unchanged.

    >>> canonical(r"\dfrac{10}{4}"), canonical("2.50"), canonical("x=2\\frac12")
    ('5/2', '5/2', '5/2')
    """
    return parse(answer).text


class _Context(NamedTuple):
    """Where a part of an answer occurs."""

    is_text: bool  # in `\text{…}`, so that letters may be a word
    depth: int = 0  # of nesting
    in_brackets: bool = False  # as an item of a structure, where a comma never groups thousands

    def inner(self) -> _Context:
        """One level deeper."""
        return _Context(self.is_text, self.depth + 1)

    def formula(self) -> _Context:
        """One level deeper, where letters are symbols."""
        return _Context(False, self.depth + 1)


def _parse(text: str, context: _Context) -> Form:
    """The form of a normalised text: that of the first parser which accepts it, else a formula or words."""
    text = text.strip()
    if context.depth > _MAX_DEPTH or not text:
        return Form(OPAQUE, text)
    for parser in _PARSERS:
        form = parser(text, context)
        if form is not None:
            return form
    return _formula(text.removeprefix("+"), context.is_text)


# ---- splitting

_OPEN, _CLOSE = "([{", ")]}"


def split_top(text: str, separators: str = ",;") -> list[str] | None:
    r"""Split at separators outside brackets and environments; None if the brackets do not match up.

    `(` may close with `]` and `[` with `)`: half-open intervals.
    """
    parts, stack, start, i = [], [], 0, 0
    while i < len(text):
        char = text[i]
        if char == "\\":
            if text.startswith("\\begin", i):
                stack.append("b")
            elif text.startswith("\\end", i) and (not stack or stack.pop() != "b"):
                return None
            elif text[i + 1 : i + 2] in ("{", "}"):  # set braces
                if text[i + 1] == "{":
                    stack.append("s")
                elif not stack or stack.pop() != "s":
                    return None
            i += 2
            continue
        if char in _OPEN:
            stack.append("{" if char == "{" else "(")
        elif char in _CLOSE:
            if not stack or stack.pop() != ("{" if char == "}" else "("):
                return None
        elif char in separators and not stack:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    if stack:
        return None
    parts.append(text[start:])
    return parts


def _outside(text: str, position: int) -> bool:
    """Whether a position lies outside braces and brackets."""
    head = text[:position]
    return head.count("{") == head.count("}") and head.count("(") == head.count(")")


def _split_at(text: str, marks: Sequence[re.Match[str]]) -> list[str]:
    """The pieces of a text between these matches."""
    starts = [0, *(mark.end() for mark in marks)]
    ends = [*(mark.start() for mark in marks), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


# ---- structures


def _structure(parts: Sequence[str], brackets: str, context: _Context) -> Form | None:
    """An ordered structure, `(a,b)` or an interval; None if an item is empty."""
    inside = _Context(False, context.depth + 1, in_brackets=True)
    items = tuple(_parse(part, inside) for part in parts)
    if any(not item.text for item in items):
        return None
    text = brackets[0] + ",".join(item.text for item in items) + brackets[1]
    return Form(TUPLE, text, items=items, brackets=brackets)


def _unordered(kind: str, items: Sequence[Form], joint: str) -> Form:
    """A list or union: flattened, without repeats, in a fixed order; a single item is that item itself."""
    flat: dict[str, Form] = {}
    for item in items:
        for part in item.items if item.kind == kind else (item,):
            flat[part.text] = part
    ordered = tuple(flat[text] for text in sorted(flat, key=lambda t: (len(t), t)))
    if len(ordered) == 1:
        return ordered[0]
    inner = joint.join(item.text for item in ordered)
    return Form(kind, f"\\{{{inner}\\}}" if kind == LIST else inner, items=ordered)


def _list(parts: Sequence[str], context: _Context) -> Form:
    return _unordered(LIST, [_parse(part, context) for part in parts], ",")


def _union(items: Sequence[Form]) -> Form:
    return _unordered(UNION, items, "\\cup ")


# ---- the parsers, in the order in which they are tried


def _number(text: str, context: _Context) -> Form | None:
    if context.in_brackets and ("," in text or _SPACED_DIGITS.search(text)):
        return None
    value = numeral_value(text)
    return number_form(*value) if value else None


def _braced(text: str, context: _Context) -> Form | None:
    """`{a}` is `a`."""
    if text[0] == "{" and text[-1] == "}" and _braces_enclose(text):
        return _parse(text[1:-1], context.inner())
    return None


def _braces_enclose(text: str) -> bool:
    depth = 0
    for i, char in enumerate(text):
        escaped = i > 0 and text[i - 1] == "\\"
        if char == "{" and not escaped:
            depth += 1
        elif char == "}" and not escaped:
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False


def _choice(text: str, context: _Context) -> Form | None:
    match = _CHOICE.fullmatch(text)
    return Form(FORMULA, match[1]) if match else None


def _separated(text: str, context: _Context) -> Form | None:
    """`a, b` as a list, a point (`x=1, y=2`) or a union of intervals; opaque if brackets do not match up."""
    parts = split_top(text)
    if parts is None:
        return Form(OPAQUE, text)
    if len(parts) == 1:
        return None
    parts = [part for part in (_spaced_thousands(text) or parts) if part.strip()]
    if len(parts) > _MAX_ITEMS:
        return Form(OPAQUE, text)
    solutions = [part for part in split_top(text, ";") or [] if part.strip()]
    if 1 < len(solutions) < len(parts):  # p=5, q=2; p=7, q=2
        return _list(solutions, context.inner())
    point = _point(parts, context) if len(parts) > 1 else None
    if point:
        return point
    items = [_parse(part, context.inner()) for part in parts]
    bounded = all(_inequality(part.strip(), context.inner()) for part in parts)
    return _union(items) if bounded else _unordered(LIST, items, ",")


def _spaced_thousands(text: str) -> list[str] | None:
    """`1,000, 2,000` as two numbers: a comma followed by a blank separates, one without groups digits."""
    parts = re.split(r"[,;] ", text)
    if len(parts) > 1 and all(SEPARATED.fullmatch(p.strip()) or INTEGER.fullmatch(p.strip()) for p in parts):
        return parts
    return None


def _point(parts: Sequence[str], context: _Context) -> Form | None:
    """`x = 1, y = 2` as the point (1,2), in the order of the names; None unless every part names another unknown."""
    values: dict[str, str] = {}
    for part in parts:
        name, right = _split_assignment(part)
        base = _SUBSCRIPT.sub("", name)  # x_1 and x_2 are two roots of one unknown: a set
        if not name or "\\in" in part or base in values:
            return None
        values[base] = right
    return _structure([values[name] for name in sorted(values)], "()", context)


def _assignment(text: str, context: _Context) -> Form | None:
    r"""`x = 5` and `x \in S` as the right side; the form of a formula keeps the variable's name."""
    name, right = _split_assignment(text)
    if not name:
        return None
    form = _parse(right, context.inner()._replace(in_brackets=context.in_brackets))
    named = form.kind in (FORMULA, EQUATION) and not form.name and _LETTER.search(form.text)
    return Form(form.kind, form.text, name=name) if named and _VARIABLE.fullmatch(name) else form


def _split_assignment(text: str) -> tuple[str, str]:
    r"""(name, right side) of `x = 5`, `f(x) = …`, `AB = 4`, `x \in S`, chains included; ("", text) otherwise."""
    marks = [mark for mark in _ASSIGN.finditer(text) if _outside(text, mark.start())]  # not that of \sum_{k=0}
    if not 1 <= len(marks) <= 8:
        return "", text
    sides = _split_at(text, marks)
    left = sides[0].strip()
    if not _is_name(left):
        left = sides[-2].strip()  # 2 + 3 = x = 5
        if len(marks) == 1 or not _is_name(left):
            return "", text
    # x = 1/3 ≈ 0.33 means 1/3: an approximation counts only if nothing exact was given.
    exact = [side for side, mark in zip(sides[1:], marks, strict=True) if mark.group() != "\\approx"]
    right = (exact or sides)[-1].strip()
    return (left, right) if right else ("", text)


def _is_name(text: str) -> bool:
    r"""Whether a left side names something (x, f(x), AB, S_{MN}:S, (p,q)) and is not an expression to solve."""
    bare = _SUBSCRIPT.sub("", text)
    if len(text) > 60 or re.search(r"[\d+*^<>]|(?<!\()-|\\(?:le|ge|cdot|times)", bare):
        return False
    return bool(_LETTER.search(bare))


def _inequality(text: str, context: _Context) -> Form | None:
    r"""`x > a`, `a < x \le b` and their mirror images as an interval; None for anything else."""
    signs = [sign for sign in _RELATION.finditer(text) if _outside(text, sign.start())]
    if not 1 <= len(signs) <= 2 or any(sign.group() == "\\ne" for sign in signs):
        return None
    sides = [side.strip() for side in _split_at(text, signs)]
    less = [sign.group() in ("<", "\\le") for sign in signs]
    closed = [sign.group() in ("\\le", "\\ge") for sign in signs]
    if not all(sides):
        return None
    if len(signs) == 1:
        if _VARIABLE.fullmatch(sides[0]) and not _VARIABLE.fullmatch(sides[1]):
            low, high = ("-\\infty", sides[1]) if less[0] else (sides[1], "\\infty")
        elif _VARIABLE.fullmatch(sides[1]) and not _VARIABLE.fullmatch(sides[0]):
            low, high = (sides[0], "\\infty") if less[0] else ("-\\infty", sides[0])
            less = [not less[0]]
        else:
            return None
        ends = "(]" if less[0] and closed[0] else "[)" if not less[0] and closed[0] else "()"
        return _structure([low, high], ends, context)
    if less[0] != less[1] or not _VARIABLE.fullmatch(sides[1]):
        return None
    if not less[0]:
        sides, closed = sides[::-1], closed[::-1]
    ends = ("[" if closed[0] else "(") + ("]" if closed[1] else ")")
    return _structure([sides[0], sides[2]], ends, context)


def _cup(text: str, context: _Context) -> Form | None:
    r"""`A \cup B`."""
    pieces = text.split("\\cup")
    if 1 < len(pieces) <= _MAX_ITEMS and split_top(pieces[0]) is not None:
        return _union([_parse(piece, context.formula()) for piece in pieces])
    return None


def _set(text: str, context: _Context) -> Form | None:
    r"""`\{a,b\}` as a list; a set-builder `\{x : …\}` stays a formula."""
    if not (text.startswith("\\{") and text.endswith("\\}")):
        return None
    inner, items = text[2:-2].strip(), split_top(text[2:-2])
    if items is None:
        return None
    if not inner:
        return Form(FORMULA, "\\emptyset")
    if "|" in inner or ":" in inner or inner.startswith("\\mid"):
        return None
    return _list(items, context.inner())


def _bracketed(text: str, context: _Context) -> Form | None:
    """`(a)` is `a`; `(a,b)`, `[a,b)` and the like are structures."""
    if text[0] not in "([" or text[-1] not in ")]":
        return None
    inner = split_top(text[1:-1])
    if inner is None:
        return None
    if len(inner) == 1:
        return _parse(text[1:-1], context.inner()) if text[0] == "(" and text[-1] == ")" else None
    if len(inner) > _MAX_ITEMS:
        return None
    return _structure(inner, text[0] + text[-1], context) or Form(OPAQUE, text)


def _plus_minus(text: str, context: _Context) -> Form | None:
    r"""`a \pm b` as the list of its two values."""
    if text.count("\\pm") != 1:
        return None
    return _list([text.replace("\\pm", sign) for sign in "+-"], context.formula())


_PARSERS: tuple[Callable[[str, _Context], Form | None], ...] = (
    _number,
    _braced,
    _choice,
    _separated,
    _assignment,
    _inequality,
    _cup,
    _set,
    _bracketed,
    _plus_minus,
)


# ---- what is left


def _formula(text: str, is_text: bool) -> Form:
    words = text.strip()
    if _WORDS.fullmatch(words) and not _LOOSE_HYPHEN.search(words) and _is_wordy(words, is_text):
        return Form(WORDS, re.sub(r"[\s.,'’\-]+", " ", words).strip().lower())
    compact = _PLAIN_COMMAND.sub(r"\\\1", text)
    compact = re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", compact)
    return Form(EQUATION if "=" in compact else FORMULA, compact)


def _is_wordy(words: str, is_text: bool) -> bool:
    r"""Whether letters are words rather than a product of symbols, as `\mathrm{e} x` and `k x` are."""
    longest = max(map(len, words.split()))
    if is_text:
        return longest > 1
    return longest > 2 and len(words) > 3 and not _FUNCTION.match(words)
