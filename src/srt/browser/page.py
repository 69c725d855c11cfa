"""Packing a page: one HTML file with its data, style and script inside.

Responses are untrusted text. They travel as base64 of gzip, so no byte of them is read as HTML, and the script puts
them into text nodes only. A Content-Security-Policy with the hashes of the one style and the one script forbids
everything else: no network, no inline handlers, no frames.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srt.browser.collect import Page

_FOLDER = Path(__file__).parent


def packed(value: Any) -> str:
    """Base64 of gzip of JSON; the same bytes for the same value."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode()


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _filled(title: str, style: str, script: str, blocks: str) -> str:
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    # split, not replace one after another: what is filled in is never searched for a place
    parts = (_FOLDER / "page.html").read_text(encoding="utf-8").split("%%")
    values = {"policy": policy, "title": html.escape(title), "style": style, "script": script, "blocks": blocks}
    return "".join(values[part] if i % 2 else part for i, part in enumerate(parts))


def render_page(page: Page) -> str:
    """The page as HTML. The index is one block; the texts of each step are another, unpacked when they are needed."""
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "app.js"))
    named = [("index", packed(page.index)), *((f"texts-{i}", packed(texts)) for i, texts in enumerate(page.texts))]
    blocks = "\n".join(f'<script type="application/octet-stream" id="{name}">{data}</script>' for name, data in named)
    return _filled(f"{page.index['run']}: rollouts", style, script, blocks)


def render_list(pages: Sequence[dict[str, str]]) -> str:
    """A page of links: {"file", "run", "label", "model", "data"} each."""
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    head = "".join(f"<th>{name}</th>" for name in ("Run", "Label", "Base model", "Training set"))
    rows = []
    for page in pages:
        cells = [html.escape(page[key]) for key in ("run", "label", "model", "data")]
        link = f'<a href="{html.escape(page["file"])}">{cells[0]}</a>'
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in (link, *cells[1:])) + "</tr>")
    policy = f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>Rollouts</title><style>{style}</style></head>"
        '<body class="list"><h1>Rollouts</h1><p>Responses of each run before, during and after training. The first '
        "seed of a run has a page here; ask for another by its file.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></body></html>\n"
    )
