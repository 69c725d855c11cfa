r"""The canonical form of an answer: what it is (number, list, tuple, words, formula) and one text for each meaning.

Cheap, pure and deterministic; no sympy. Two answers with the same canonical text are the same answer; two numbers,
words, or structures of numbers with different texts are different ones, decided here. Only formulas that remain
distinct go on to `equivalence`. Conventions (docs/answers.md gives the reasons):

- a percent, degree or currency sign and a unit are dropped, the value is kept: 28 % = 28, and so 28 % ≠ 0.28;
- `x = 5` and `x \in S` are their right sides; `a < x \le b` is the interval `(a,b]`, whatever the variable's name;
- `(a,b)` is ordered (a point or an open interval), `[a,b)` a half-open interval, `{a,b}` and a bare `a,b` unordered;
- `1,234` alone is a thousands separator, inside brackets a comma separates;
- a decimal with fewer than six places is exact, one with more is an approximation (0.333333 = 1/3, 0.33 ≠ 1/3).
"""

# ruff: noqa: RUF001 - the look-alike characters are the point

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from srt.answers.extract import MAX_ANSWER_CHARS
from srt.answers.normalise import normalise

NUMBER, LIST, TUPLE, UNION, WORDS, EQUATION, FORMULA, OPAQUE = (
    "number", "list", "tuple", "union", "words", "equation", "formula", "opaque",
)  # fmt: skip

PLACES = 6  # decimals that an approximation must get right, as in Math-Verify
_MAX_DIGITS = 400  # of a number that is read as one; longer ones are compared as text
_MAX_DEPTH = 8
_MAX_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Form:
    """A canonical answer: `text` names its meaning; `value` for numbers (`approximate` if it stands for a rounding),
    `items` and `brackets` for structures, `name` the left side of an assignment to a formula."""

    kind: str
    text: str
    value: Fraction | None = None
    approximate: bool = False
    items: tuple[Form, ...] = ()
    brackets: str = ""
    name: str = ""


_INTEGER = re.compile(r"[-+]?\d{1,400}", re.ASCII)
_DECIMAL = re.compile(r"([-+]?)\s*(\d*)(?:\.(\d*))?", re.ASCII)
_SEPARATED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d*)?", re.ASCII)
_FRACTION = re.compile(
    r"([-+]?)\s*\\frac\{\s*([-+]?\d+)\s*\}\{\s*([-+]?\d+)\s*\}|([-+]?\d+)\s*/\s*([-+]?\d+)", re.ASCII
)
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|([-+]?)\s*(\d+) (\d+)/(\d+)", re.ASCII)
_SCIENTIFIC = re.compile(
    r"([-+]?\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,3})\s*\}|(\d))", re.ASCII
)
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


def _as_number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a numeral and whether it is an approximation; None if the text is not one numeral."""
    if len(text) > _MAX_DIGITS:
        return None
    if _INTEGER.fullmatch(text):
        return Fraction(int(text)), False
    if _SEPARATED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    match = _DECIMAL.fullmatch(text)
    if match and (match[2] or match[3]):
        places = match[3] or ""
        value = Fraction(int((match[2] or "0") + places), 10 ** len(places))
        return (-value if match[1] == "-" else value), len(places) >= PLACES
    match = _FRACTION.fullmatch(text)
    if match:
        sign, top, bottom = (match[1], match[2], match[3]) if match[2] else ("", match[4], match[5])
        if int(bottom) == 0:
            return None
        value = Fraction(int(top), int(bottom))
        return (-value if sign == "-" else value), False
    match = _MIXED.fullmatch(text)
    if match:
        sign, whole, top, bottom = match.groups()[:4] if match[2] else match.groups()[4:]
        if int(bottom) == 0 or int(top) >= int(bottom):
            return None
        value = int(whole) + Fraction(int(top), int(bottom))
        return (-value if sign == "-" else value), False
    match = _SCIENTIFIC.fullmatch(text)
    if match:
        mantissa = _as_number(match[1])
        exponent = int(match[2] or match[3])
        if mantissa and abs(exponent) <= 100:
            return mantissa[0] * Fraction(10) ** exponent, False
    return None


def _number(value: Fraction, approximate: bool) -> Form:
    if approximate and value != round(value, PLACES - 1):  # 0.5000000 is a half; 0.3333333 keeps its decimals
        places = len(str(value.denominator)) + 1
        while value * 10**places != int(value * 10**places):  # the denominator divides a power of ten
            places += 1
        digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
        text = f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}".rstrip("0")
        return Form(NUMBER, text, value=value, approximate=True)
    return Form(NUMBER, str(value), value=value)


_OPEN, _CLOSE = "([{", ")]}"


def split_top(text: str, separators: str = ",;") -> list[str] | None:
    r"""Split at separators outside brackets and environments; None when the brackets do not match up.

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


def _is_name(text: str) -> bool:
    r"""Whether a left side names something (x, f(x), AB, S_{MN}:S, (p,q)) and is no expression to solve."""
    bare = _SUBSCRIPT.sub("", text)
    if len(text) > 60 or re.search(r"[\d+*^<>]|(?<!\()-|\\(?:le|ge|cdot|times)", bare):
        return False
    return bool(re.search(r"[A-Za-z]", bare))


def _assignments(parts: list[str], depth: int) -> Form | None:
    """`x = 1, y = 2` as the point (1,2), in the order of the names; None unless every part names another unknown."""
    values: dict[str, str] = {}
    for part in parts:
        name, right = _strip_assignment(part)
        base = _SUBSCRIPT.sub("", name)  # x_1 and x_2 are two roots of one unknown: a set
        if not name or "\\in" in part or base in values:
            return None
        values[base] = right
    return _structure([values[name] for name in sorted(values)], "()", depth)


def _strip_assignment(text: str) -> tuple[str, str]:
    r"""(name, right side) of `x = 5`, `f(x) = …`, `AB = 4`, `x \in S`, chains included; ("", text) otherwise."""
    parts, position = [], 0
    for match in _ASSIGN.finditer(text):
        if not _outside(text, match.start()):
            continue  # \sum_{k=0}
        parts.append((text[position : match.start()], match.group()))
        position = match.end()
    if not parts or len(parts) > 8:
        return "", text
    left = parts[0][0].strip()
    if not _is_name(left):
        left = parts[-1][0].strip()  # 2 + 3 = x = 5
        if len(parts) == 1 or not _is_name(left):
            return "", text
    # x = 1/3 ≈ 0.33 means 1/3: an approximation counts only where nothing exact was given.
    pieces = [piece for piece, _ in parts[1:]] + [text[position:]]
    relations = [relation for _, relation in parts]
    exact = [piece for piece, relation in zip(pieces, relations, strict=True) if relation != "\\approx"]
    right = (exact or pieces)[-1].strip()
    return (left, right) if right else ("", text)


def _inequality(text: str, depth: int) -> Form | None:
    r"""`x > a`, `a < x \le b` and their mirror images as an interval; None for anything else."""
    signs = [sign for sign in _RELATION.finditer(text) if _outside(text, sign.start())]
    if not 1 <= len(signs) <= 2 or any(sign.group() == "\\ne" for sign in signs):
        return None
    sides, position = [], 0
    for sign in signs:
        sides.append(text[position : sign.start()].strip())
        position = sign.end()
    sides.append(text[position:].strip())
    less = ["<" in s.group() or s.group() == "\\le" for s in signs]
    closed = [s.group() in ("\\le", "\\ge") for s in signs]
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
        return _structure([low, high], ends, depth)
    if less[0] != less[1] or not _VARIABLE.fullmatch(sides[1]):
        return None
    if not less[0]:
        sides, closed = sides[::-1], closed[::-1]
    ends = ("[" if closed[0] else "(") + ("]" if closed[1] else ")")
    return _structure([sides[0], sides[2]], ends, depth)


def _structure(parts: list[str], brackets: str, depth: int) -> Form | None:
    items = tuple(_parse(part.strip(), False, depth + 1, inside=True) for part in parts)
    if any(not item.text for item in items):
        return None
    text = brackets[0] + ",".join(item.text for item in items) + brackets[1]
    return Form(TUPLE, text, items=items, brackets=brackets)


def _unordered(kind: str, items: list[Form], joint: str) -> Form:
    """A set of items: flattened, without repeats, in a fixed order; a single item is itself."""
    flat: dict[str, Form] = {}
    for item in items:
        for part in item.items if item.kind == kind else (item,):
            flat[part.text] = part
    ordered = tuple(flat[text] for text in sorted(flat, key=lambda t: (len(t), t)))
    if len(ordered) == 1:
        return ordered[0]
    inner = joint.join(item.text for item in ordered)
    return Form(kind, f"\\{{{inner}\\}}" if kind == LIST else inner, items=ordered)


def _thousands(text: str) -> list[str] | None:
    """`1,000, 2,000` as two numbers: commas with a blank separate, those without group digits."""
    parts = re.split(r"[,;] ", text)
    if len(parts) > 1 and all(_SEPARATED.fullmatch(p.strip()) or _INTEGER.fullmatch(p.strip()) for p in parts):
        return parts
    return None


def _is_wordy(words: str, is_text: bool) -> bool:
    r"""Whether letters are words and no product of symbols: `\mathrm{e} x` and `k x` are products."""
    longest = max(map(len, words.split()))
    if is_text:
        return longest > 1
    return longest > 2 and len(words) > 3 and not _FUNCTION.match(words)


def _formula(text: str, is_text: bool, name: str = "") -> Form:
    words = text.strip()
    if _WORDS.fullmatch(words) and not _LOOSE_HYPHEN.search(words) and _is_wordy(words, is_text):
        return Form(WORDS, re.sub(r"[\s.,'’\-]+", " ", words).strip().lower())
    compact = _PLAIN_COMMAND.sub(r"\\\1", text)
    compact = re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", compact)
    return Form(EQUATION if "=" in compact else FORMULA, compact, name=name)


def _parse(text: str, is_text: bool, depth: int, inside: bool = False) -> Form:
    """The form of a normalised text; `inside` brackets a comma never groups thousands."""
    text = text.strip()
    if depth > _MAX_DEPTH:
        return Form(OPAQUE, text)
    if not (inside and ("," in text or re.search(r"\d \d", text))):
        number = _as_number(text)
        if number:
            return _number(*number)
    if not text:
        return Form(OPAQUE, "")
    if text[0] == "{" and text[-1] == "}" and _braces_enclose(text):
        return _parse(text[1:-1], is_text, depth + 1)
    choice = _CHOICE.fullmatch(text)
    if choice:
        return Form(FORMULA, choice[1])
    parts = split_top(text)
    if parts is None:
        return Form(OPAQUE, text)
    if len(parts) > 1:
        parts = [part for part in (_thousands(text) or parts) if part.strip()]
        if len(parts) > _MAX_ITEMS:
            return Form(OPAQUE, text)
        solutions = [part for part in split_top(text, ";") or [] if part.strip()]
        if 1 < len(solutions) < len(parts):  # p=5, q=2; p=7, q=2
            return _unordered(LIST, [_parse(part, is_text, depth + 1) for part in solutions], ",")
        point = _assignments(parts, depth) if len(parts) > 1 else None
        if point:
            return point
        items = [_parse(part, is_text, depth + 1) for part in parts]
        bounded = [_inequality(part.strip(), depth + 1) is not None for part in parts]
        return _unordered(UNION, items, "\\cup ") if all(bounded) else _unordered(LIST, items, ",")
    name, right = _strip_assignment(text)
    if name:
        form = _parse(right, is_text, depth + 1, inside)
        named = form.kind in (FORMULA, EQUATION) and not form.name and re.search(r"[A-Za-z]", form.text)
        if named and _VARIABLE.fullmatch(name):
            return Form(form.kind, form.text, name=name)
        return form
    interval = _inequality(text, depth)
    if interval:
        return interval
    pieces = text.split("\\cup")
    if len(pieces) > 1 and split_top(pieces[0]) is not None and len(pieces) <= _MAX_ITEMS:
        return _unordered(UNION, [_parse(piece, False, depth + 1) for piece in pieces], "\\cup ")
    if text.startswith("\\{") and text.endswith("\\}") and split_top(text[2:-2]) is not None:
        inner = text[2:-2].strip()
        if not inner:
            return Form(FORMULA, "\\emptyset")
        if "|" not in inner and ":" not in inner and not inner.startswith("\\mid"):
            items = [_parse(part, is_text, depth + 1) for part in split_top(inner) or []]
            return _unordered(LIST, items, ",")
    if text[0] in "([" and text[-1] in ")]":
        inner = split_top(text[1:-1])
        if inner is not None and len(inner) == 1 and text[0] == "(" and text[-1] == ")":
            return _parse(text[1:-1], is_text, depth + 1)
        if inner is not None and 1 < len(inner) <= _MAX_ITEMS:
            return _structure(inner, text[0] + text[-1], depth) or Form(OPAQUE, text)
    if text.count("\\pm") == 1:
        return _unordered(LIST, [_parse(text.replace("\\pm", sign), False, depth + 1) for sign in "+-"], ",")
    return _formula(text.removeprefix("+"), is_text)


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


@lru_cache(maxsize=1 << 16)
def parse(answer: str) -> Form:
    """The canonical form of an answer as extracted. Never raises."""
    if len(answer) > MAX_ANSWER_CHARS:
        return Form(OPAQUE, answer)
    if _INTEGER.fullmatch(answer):  # nearly every answer of AIME, AMC, DAPO and GSM8K
        return _number(Fraction(int(answer)), False)
    text, is_text = normalise(answer)
    if not text:
        return Form(OPAQUE, answer.strip())
    return _parse(text, is_text, 0)


def canonical(answer: str) -> str:
    r"""The canonical text: equal for answers that this module knows to be the same, and its own canonical text.

    >>> canonical(r"\dfrac{10}{4}"), canonical("2.50"), canonical("x=2\\frac12")
    ('5/2', '5/2', '5/2')
    """
    return parse(answer).text
