"""A page as one HTML file with its data, style and script inside.

Responses are untrusted text. They are stored as base64 of gzip, so no byte of them is parsed as HTML, and the script
puts them into text nodes only. A Content-Security-Policy with the hashes of the one style and the one script forbids
everything else: network, inline handlers, frames.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srt.browser.collect import Page
from srt.common.markup import fill_template

_FOLDER = Path(__file__).parent


def packed(value: Any) -> str:
    """Base64 of gzip of JSON; the same bytes for the same value."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode()


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def render_page(page: Page) -> str:
    """The page as HTML: the index in one data block, the texts of each step in another, unpacked when first shown."""
    style, script = _text("style.css"), _text("app.js")
    named = [("index", packed(page.index)), *((f"texts-{i}", packed(texts)) for i, texts in enumerate(page.texts))]
    blocks = "\n".join(f'<script type="application/octet-stream" id="{name}">{data}</script>' for name, data in named)
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    title = f"{page.index['run']}: rollouts"
    return fill_template(_text("page.html"), policy=policy, title=title, style=style, script=script, blocks=blocks)


def render_list(pages: Sequence[dict[str, str]]) -> str:
    """A page of links: {"file", "run", "label", "model", "data"} each."""
    style = _text("style.css")
    policy = f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'"
    return fill_template(_text("list.html"), policy=policy, style=style, pages=pages)
