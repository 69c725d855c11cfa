"""Text of models and data, made safe to show: without commands to a terminal or formulas of a spreadsheet."""

from __future__ import annotations

import re

# Control characters except tab and line feed, the ends of lines that only Unicode knows, and the marks that change the
# direction of the text after them.
_UNSEEN = [
    *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"),
    0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A),
]  # fmt: skip
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSEEN}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


def printable(text: str) -> str:
    r"""The text with control characters and marks of direction spelled out.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return text.translate(_ESCAPES)


def spreadsheet_cell(text: str) -> str:
    """The text of a cell, printable, and after an apostrophe if a spreadsheet would take it for a formula.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-0.5")
    ("'=1+1", '-0.5')
    """
    text = printable(text)
    formula = len(text) > 1 and text[0] in "=+-@\t\n" and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text
