"""Markdown tables, and Jinja2 templates of Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

_TEMPLATES = jinja2.Environment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters["escape"] = html.escape


def fill_template(template: str, **values: Any) -> str:
    """Fill a template; `{{ x | escape }}` is for text in HTML. An unknown name raises `jinja2.TemplateError`."""
    return _TEMPLATES.from_string(template).render(values)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a line end after its last row. A `|` in a cell must come escaped."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])
