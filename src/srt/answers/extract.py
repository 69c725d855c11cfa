r"""Find the answer in a response: one extractor per task family, which returns an answer or the reason for none.

A response can be any text, so extractors never raise and take time linear in its length. They return the text as
written (stripped); `canonical` decides what it means. `boxed_authors` repeats the authors' code and is used by the
`authors` preset only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

OK = "ok"
NO_BOX, UNCLOSED_BOX, EMPTY_BOX, TOO_LONG = "no_box", "unclosed_box", "empty_box", "too_long"
NO_NUMBER, NO_TAG, EMPTY_TAG, NO_HASH, EMPTY_HASH = "no_number", "no_tag", "empty_tag", "no_hash", "empty_hash"

# Maximum length of an answer that is graded, in characters; the longest reference in the paper's data sets has 159.
MAX_ANSWER_CHARS = 2000


@dataclass(frozen=True)
class Extraction:
    """`answer` (never empty) with reason "ok", or None with the reason why there is none."""

    answer: str | None
    reason: str


def _found(answer: str, empty: str) -> Extraction:
    answer = answer.strip()
    if not answer:
        return Extraction(None, empty)
    if len(answer) > MAX_ANSWER_CHARS:
        return Extraction(None, TOO_LONG)
    return Extraction(answer, OK)


# A command ends at the first non-letter: \boxedness is a different command.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t\r\n]*", re.ASCII)
# Braces and escaped characters; `\{` and `\}` are printed braces and do not nest.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What `\boxed 5` boxes: a number with its fraction, else the text to the end of the formula or sentence.
_BARE_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?![\d\w])", re.ASCII)
_BARE_END = re.compile(r"[$\n}]|\\[)\]]|\.(?=\s|$)|\\(?:end|text|quad)\b")


def match_brace(text: str, start: int) -> int:
    r"""Index of the brace that closes the one at `start`, -1 if none does; `\{` and `\}` do not count."""
    end = text.find("}", start)
    inner = text[start + 1 : end]
    if end >= 0 and "{" not in inner and "\\" not in inner:  # the common case: a number
        return end
    depth = 0
    for token in _BRACE.finditer(text, start):
        if token.group() == "{":
            depth += 1
        elif token.group() == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return -1


def _rfind_command(text: str, name: str) -> re.Match[str] | None:
    position = text.rfind(name)
    while position >= 0:
        command = _BOX.match(text, position)
        if command:
            return command
        position = text.rfind(name, 0, position)
    return None


def boxed(text: str) -> Extraction:
    r"""The content of the last `\boxed{…}` or `\fbox{…}`, of nested ones the innermost.

    >>> boxed(r"so \boxed{\frac{1}{2}} and \boxed{3}, done")
    Extraction(answer='3', reason='ok')
    """
    # Each name is searched on its own, so that many false hits of one do not rescan the text for the other.
    found = [_rfind_command(text, name) for name in ("\\boxed", "\\fbox")]
    command = max((c for c in found if c), key=lambda c: c.start(), default=None)
    if command is None:
        return Extraction(None, NO_BOX)
    start = command.end()
    if start >= len(text):
        return Extraction(None, UNCLOSED_BOX)
    if text[start] == "{":
        end = match_brace(text, start)
        return Extraction(None, UNCLOSED_BOX) if end < 0 else _found(text[start + 1 : end], EMPTY_BOX)
    number = _BARE_NUMBER.match(text, start)
    if number:
        return _found(number.group(), EMPTY_BOX)
    stop = _BARE_END.search(text, start)
    return _found(text[start : stop.start() if stop else len(text)], EMPTY_BOX)


# A number as prose writes it: sign, thousands separators, decimals, a fraction. Scanned once from the left.
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:/\d+(?:\.\d+)?)?(?!\w)|"
    r"(?<![\w.])[-+]?\d+(?=\w)",
    re.ASCII,
)
_TAIL = 4096
_FRAC = re.compile(r"-?\\[dt]?frac\{-?\d{1,20}\}\{-?\d{1,20}\}", re.ASCII)


def last_number(text: str) -> Extraction:
    r"""The last number of the text (`1,234.5`, `3/4`, `\frac{3}{4}`), for models that do not box."""
    # The tail is nearly always enough, but a match near its start may be the end of a longer number.
    start = max(0, len(text) - _TAIL)
    last = _last(_NUMBER, text, start)
    if start and (last is None or last.start() < start + 256):
        start, last = 0, _last(_NUMBER, text, 0)
    fraction = _last(_FRAC, text, start)
    if fraction and last and last.start() < fraction.end():
        return _found(fraction.group(), NO_NUMBER)
    return Extraction(None, NO_NUMBER) if last is None else _found(last.group(), NO_NUMBER)


def _last(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, start):
        found = match
    return found


def boxed_or_last_number(text: str) -> Extraction:
    """`boxed`, or `last_number` if there is no box. An unclosed or empty box counts as a box: the model had begun its
    answer, so a number before it is not the answer."""
    result = boxed(text)
    return last_number(text) if result.reason == NO_BOX else result


def reasoning_gym(text: str) -> Extraction:
    """`boxed` (the paper's prompt suffix), else the last `<answer>…</answer>` (the library's own prompt)."""
    result = boxed(text)
    if result.reason != NO_BOX:
        return result
    start = text.rfind("<answer>")
    if start < 0:
        return Extraction(None, NO_TAG)
    end = text.find("</answer>", start)
    return Extraction(None, NO_TAG) if end < 0 else _found(text[start + len("<answer>") : end], EMPTY_TAG)


def gsm8k_hash(text: str) -> Extraction:
    """The rest of the line after the last `####`, GSM8K's own format."""
    start = text.rfind("####")
    if start < 0:
        return Extraction(None, NO_HASH)
    end = text.find("\n", start)
    return _found(text[start + 4 : end if end >= 0 else len(text)], EMPTY_HASH)


EXTRACTORS: dict[str, Callable[[str], Extraction]] = {
    "boxed": boxed,
    "boxed_or_last_number": boxed_or_last_number,
    "reasoning_gym": reasoning_gym,
    "gsm8k_hash": gsm8k_hash,
}


def extract(text: str, extractor: str = "boxed") -> Extraction:
    """The answer in a response by the named extractor, a key of `EXTRACTORS`."""
    return EXTRACTORS[extractor](text)


def boxed_authors(text: str) -> Extraction:
    r"""The authors' extraction (verl `last_boxed_only_string`, `remove_boxed`) with its quirks.

    Every brace counts, even an escaped one; `\fbox` is not a box; if the text contains `\boxed ` with a space, the
    answer is what follows the last one, up to `$`. The content is not stripped and may be empty (an empty box votes on
    their `main` branch).
    """
    if "\\boxed " in text:
        return Extraction(text.rsplit("\\boxed ", 1)[1].split("$", 1)[0], OK)
    start = text.rfind("\\boxed")
    if start < 0:
        return Extraction(None, NO_BOX)
    depth = 0
    for token in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if token.group() == "{" else -1
        if depth == 0:
            if text[start : start + 7] != "\\boxed{":
                return Extraction(None, NO_BOX)
            return Extraction(text[start + 7 : token.start()], OK)
        if depth < 0:  # their loop continues, but then the text after `\boxed` started with "}": never a match
            break
    return Extraction(None, UNCLOSED_BOX)
