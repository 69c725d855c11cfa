"""The key pages of docs/config and the JSON schemas, generated from the pydantic models, so that none is out of date.

What a key means is said once, in the description of its field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srt.config.document.pages import pages
from srt.config.document.schema import schemas

PAGES = "docs/config"
SCHEMAS = "workflow/schemas"


def files() -> dict[str, str]:
    """Every generated file: path from the repository's root -> text."""
    made = {f"{SCHEMAS}/{name}.schema.json": _json(schema) for name, schema in schemas().items()}
    return {f"{PAGES}/{name}.md": text for name, text in pages().items()} | made


def stale(folder: Path) -> list[str]:
    """The generated files that are missing in `folder` or differ from what the models say."""
    return [
        name
        for name, text in files().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
