r"""Which question texts count as the same: formatting is removed, wording and numbers are kept.

`normalise` is the key of exact matches, `core` is the question without the sentences that only say how to write the
answer, and `shingles` are the units of near matches (`srt.audit`). `normalise` is coarser than
`srt.data.keys.question_key`. A change of `normalise` or `core` changes which questions are held out
(`srt.data.keys.holdout_part`) and must raise REVISION["data"].

>>> normalise(r"Find $\dfrac12 + x^{2}$.") == normalise("Find  \\( \\frac{1}{2}+x^2 \\)")
True
>>> core("Janet rolls a die. What is the probability? The answer can be written in the form $m/n$. What is $m+n$?")
'Janet rolls a die. What is the probability?'
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

SHINGLE_BYTES = 8  # one uint64, so that a shingle is its own hash and none collide

_PICTURE = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL | re.IGNORECASE)
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|mathrm|mathbf|mathit|mathsf|operatorname|boldsymbol|textbf|textit|"
    r"emph|text|mbox|hbox|quad|qquad|hspace|vspace|bigl|bigr|biggl|biggr|big|bigg|noindent|par|begin|end|"
    r"array|aligned?|[,;:!])(?![a-z])"
)
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-z])")
# LaTeX, Unicode and keyboards write these signs differently
_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u2264": "le", "\u2265": "ge", "\u2260": "ne", "\u00d7": "times", "\u22c5": "cdot",
    "\u2026": "dots", "\u22ef": "dots", "\u221a": "sqrt", "\u03c0": "pi", "\u2220": "angle", "\u25b3": "triangle",
    "\u00b0": "circ",
}  # fmt: skip
_SIGN_TABLE = str.maketrans(_SIGNS)
_NAMES = (
    (re.compile(r"\\(leq|geq|neq)(?:slant)?(?![a-z])"), lambda m: m[1][:2]),
    (re.compile(r"\\[lcv]?dots(?![a-z])|\.\.\."), lambda m: "dots"),
)
_DROPPED = re.compile(r"[^\w+\-=<>^/!|]|_")

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Cs", "Zs", "Zl", "Zp", "Mn", "Mc", "Me"})
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category, drawn as nothing

_SENTENCE_END = re.compile(r"(?<=[.?!])(?:\s|[$)]|\\[\])])+|(?<=[。？！])\s*")  # noqa: RUF001 - Chinese full stops
_COMBINATION = (
    r"[\s$({\\]*\d*\s*[a-z]\b[\s$)^\d{}\\]*(?:(?:[+*-]|\\cdot|\\times)[\s$({\\]*\d*\s*[a-z]\b[\s$)^\d{}\\]*)+"
)
_FORMAT = re.compile(
    r"\s*(?:"
    rf"(?:please\s+)?(?:find|give|provide|compute|calculate|determine|enter|submit|what\s+is)(?:\s+me)?(?:\s+the)?"
    rf"(?:\s+(?:value|sum|result)(?:\s+of)?)?{_COMBINATION}[.?!]?\s*$"
    r"|(?:please\s+)?(?:express|give|write|provide|enter|submit|state|output|round|report|leave)\s+(?:your|the)\s+(?:\w+\s+)?"
    r"(?:answer|result|solution)"
    r"|(?:please|provide|fill\s+in)\b"
    r"|(?:the|your)\s+(?:final\s+|original\s+)?answer\b"
    r"|[^.?!]*\b(?:expressed|written|simplified)\b[^.?!]*\b(?:form|format)\b"
    r"|(?:here|where),?\s[^.?!]*\b(?:relatively\s+prime|coprime)\b"
    r"|请|(?:最终|原始)?答案"
    r")",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """Letters, digits and operators of a question in lower case, without LaTeX layout, pictures and punctuation."""
    text = unicodedata.normalize("NFKC", _PICTURE.sub(" ", text).translate(_SIGN_TABLE)).casefold()
    text = _FRACTIONS.sub(r"\\frac", _LAYOUT.sub(" ", text))
    for pattern, name in _NAMES:
        text = pattern.sub(name, text)
    return _DROPPED.sub("", text)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: only white space, control and format characters, and marks without a letter.

    >>> is_blank("\u200b \ufeff"), is_blank("0")
    (True, False)
    """
    return all(c in _BLANK or unicodedata.category(c) in _INVISIBLE for c in text)


def core(text: str) -> str:
    """The question without trailing sentences that only say in which form the answer is wanted.

    The first sentence always stays. Data sets with integer answers rewrite these sentences ("Find m + n").
    """
    text = _PICTURE.sub(" ", text)
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    last = len(ends) - 1
    while last > 1 and (not text[ends[last - 1] : ends[last]].strip() or _FORMAT.match(text, ends[last - 1])):
        last -= 1
    return text[: ends[last]].rstrip() if last < len(ends) - 1 else text


def shingles(normalised: str) -> np.ndarray:
    """The distinct runs of `SHINGLE_BYTES` bytes (UTF-8) of a normalised text: sorted uint64, empty for shorter texts.

    Eight bytes are eight letters or digits of English, or two to three characters of Chinese.
    """
    data = np.frombuffer(normalised.encode(), dtype=np.uint8)
    if len(data) < SHINGLE_BYTES:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(data, SHINGLE_BYTES)
    return np.unique(np.ascontiguousarray(windows).view(">u8").ravel().astype(np.uint64))


def numbers(text: str) -> list[str]:
    """The numbers in a text, sorted; they distinguish a variant with other numbers from a copy."""
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))
