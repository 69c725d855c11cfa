r"""Rewrite the LaTeX of an answer into one plain spelling: the first half of the canonical form.

Only the spelling changes here (spaces, sizes, fonts, `\dfrac`, units, percent and degree signs, thousands separators);
`canonical` decides what the pieces mean. Every pass is one linear regular expression, so even a hostile answer of
`MAX_ANSWER_CHARS` costs microseconds.
"""

# ruff: noqa: RUF001 - the look-alike characters are the point

from __future__ import annotations

import re

# Unicode that models write for LaTeX. Superscripts must not become plain digits (x² is not x2).
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "°": r"^\circ ",
    "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∪": r"\cup ",
    "∅": r"\emptyset ", "∈": r"\in ", "θ": r"\theta ", "√": r"\sqrt", "′": "'", "\u2019": "'", "％": "%",
    "，": ",", "；": ";", "（": "(", "）": ")", "。": ".", "\xa0": " ", "\u2009": " ", "\u202f": " ", "、": ",",
}  # fmt: skip
_TABLE = {ord(k): v for k, v in _UNICODE.items()}
_TABLE.update({0xFF10 + d: str(d) for d in range(10)})  # fullwidth digits
_TABLE.update({c: None for c in (*range(0x00, 0x09), *range(0x0E, 0x20), 0x7F, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)})

_DROP = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|hfill|left|right|middle|[bB]igg?[lrm]?)"
    r"(?![A-Za-z])\.?|\\!"
)
# A double backslash (a matrix row) is matched first and kept, so that its second half is not taken for `\\ `.
_SPACES = re.compile(r"(\\\\)|(?:\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~|\s)+")
_RENAME = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\d?binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])|<=|≦"), r"\\le "),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])|>=|≧"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\l(?:brace|braces)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\r(?:brace|braces)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:langle|lparen)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rangle|rparen)(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:l|r)?vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:bigcup)(?![A-Za-z])"), r"\\cup "),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|infty|inf)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\approxeq(?![A-Za-z])|\\simeq(?![A-Za-z])|~="), r"\\approx "),
    (re.compile(r"\\implies(?![A-Za-z])|\\Rightarrow(?![A-Za-z])"), ";"),
    (re.compile(r"(?<![A-Za-z\\])(?:sqrt)\(([^()]{1,80})\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![A-Za-z\\])(exp|ln|log|sin|cos|tan|cot|sec|csc)(?=\s*\()"), r"\\\1"),
    (re.compile(r"\*\*"), "^"),
]
_MARKUP = re.compile(r"^(?:\*\*|__)(.*?)(?:\*\*|__)$", re.DOTALL)
_MATHS = re.compile(r"^(?:\$\$?(.*?)\$?\$|\\\((.*)\\\)|\\\[(.*)\\\])$", re.DOTALL)
# Degrees and percent signs are dropped: the unit belongs to the question (28 %, 28 and 28° name the same answer).
_DEGREE = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})\s*[CFK]?(?![A-Za-z])|\\degrees?(?![A-Za-z])")
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\{\s*\\?(?:%|percent(?:age)?|pct)\s*\}|(?<=[\d}\s])\b(?:percent(?:age)?|pct)\b)", re.IGNORECASE
)
_CURRENCY = re.compile(r"\\?\$|\\(?:pounds|euro)(?![A-Za-z])|[€£¥₹]")
_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal|sc)?|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?|boldsymbol|bm)"
_AND_OR = re.compile(rf",?\s*(?:{_TEXT}\{{\s*(?:and|or)\s*\}}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*,?")
_ITEM_END = r"(?=\s*\.?\s*(?:$|[,;)\]]|\\\}))"  # of the answer or of an item in a list
_UNIT_TEXT = re.compile(
    rf"(?<=[\w)}}\]|])(?:\s|\\[,;: ]|~)*{_TEXT}\s*\{{[^{{}}]*\}}\s*(?:\^\s*(?:\d|\{{\s*-?\d\s*\}}))?" + _ITEM_END
)
_UNIT_WORD = re.compile(
    r"(?<=[\d})])\s*(?:sq(?:uare)?\.?\s+|cu(?:bic)?\.?\s+)?(?:"
    r"units?|degrees?|radians?|dollars?|cents?|meters?|metres?|feet|foot|inch(?:es)?|yards?|miles?|"
    r"(?:centi|milli|kilo)met(?:er|re)s?|mm|cm|dm|km|ft|mph|kmh|km/h|m/s|kg|mg|grams?|pounds?|lbs?|ounces?|"
    r"seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|lit(?:er|re)s?|ml|"
    r"people|students?|ways?|times|points?|square|cubic"
    r")(?:\s*\^\s*(?:\d|\{\s*\d\s*\}))?" + _ITEM_END,
    re.IGNORECASE,
)
_UNWRAP = re.compile(rf"{_TEXT}\s*\{{([^{{}}]*)\}}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}\s*(?:\\!)?|,\\!|\\[,;: ]|\{\s\})(?=\d{3}(?!\d))", re.ASCII)
_SQRT_ARG = re.compile(r"\\sqrt\s*(\d|[A-Za-z])", re.ASCII)
_POWER_ARG = re.compile(r"\^\s*\{\s*(\w)\s*\}", re.ASCII)


def _brace_fracs(text: str) -> str:
    r"""`\frac12`, `\frac1{2}`, `\frac{1}2` → `\frac{1}{2}`; one pass from the right, so that nested ones are seen."""
    pieces = text.split("\\frac")
    for i in range(len(pieces) - 1, 0, -1):
        rest, arguments = pieces[i].lstrip(), []
        for _ in range(2):
            if rest[:1] == "{":
                break_at = _closing(rest)
                if break_at < 0:
                    break
                arguments.append(rest[: break_at + 1])
                rest = rest[break_at + 1 :].lstrip()
            elif rest[:1].isalnum():
                arguments.append("{" + rest[0] + "}")
                rest = rest[1:].lstrip() if not arguments[1:] else rest[1:]
            else:
                break
        pieces[i] = "".join(arguments) + rest
    return "\\frac".join(pieces)


def _closing(text: str) -> int:
    depth = 0
    for i, char in enumerate(text):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return i
    return -1


def strip_maths(text: str) -> str:
    r"""Remove `$…$`, `\(…\)`, `\[…\]` or `**…**` around the whole text, and a full stop after it."""
    for _ in range(4):
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith("\\right."):
            text = text[:-1].rstrip()
        for pattern in (_MATHS, _MARKUP):
            match = pattern.match(text)
            if match:
                inner = next(group for group in match.groups() if group is not None)
                if "$" not in inner:
                    text = inner
        if text == before:
            break
    return text


def normalise(answer: str) -> tuple[str, bool]:
    r"""One spelling of an answer's LaTeX, and whether it was text (`\text{…}` or words) rather than a formula.

    Single blanks remain only where they may matter (between digits, between words, after a comma); `canonical` removes
    those that do not.

    >>> normalise(r"$\dfrac12\text{ cm}^2$")
    ('\\frac{1}{2}', False)
    """
    text = strip_maths(" ".join(answer.translate(_TABLE).split()))
    if "\\\\" in text and "matrix" not in text and "array" not in text and "cases" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    for pattern, replacement in _RENAME:
        text = pattern.sub(replacement, text)
    text = _THOUSANDS.sub("", text)
    text = _DROP.sub("", text)
    text = _AND_OR.sub(", ", text)
    text = _PERCENT.sub("", text)
    text = _CURRENCY.sub("", text)
    text = _DEGREE.sub("", text)
    text = text.strip()
    for pattern in (_UNIT_TEXT, _UNIT_WORD):
        text = pattern.sub("", text).strip()
    is_text = False
    while True:
        unwrapped = _UNWRAP.sub(r" \1 ", text)
        if unwrapped == text:
            break
        is_text, text = True, unwrapped
    text = _SPACES.sub(lambda m: m.group(1) or " ", text).strip().rstrip(".,;:").strip()
    text = _brace_fracs(text)
    text = _SQRT_ARG.sub(r"\\sqrt{\1}", text)
    text = _POWER_ARG.sub(r"^\1", text)
    return text, is_text
