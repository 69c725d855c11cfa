"""config/README.md and the JSON schemas, generated from the pydantic models, so that neither can be out of date.

What a key means is said once, in the description of its field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srt.config.document.readme import readme_text
from srt.config.document.schema import schemas

README = "config/README.md"
SCHEMAS = "workflow/schemas"


def files() -> dict[str, str]:
    """Every generated file: path from the repository's root -> text."""
    made = {f"{SCHEMAS}/{name}.schema.json": _json(schema) for name, schema in schemas().items()}
    return {README: readme_text(), **made}


def stale(folder: Path) -> list[str]:
    """The generated files that are missing in `folder` or differ from what the models say."""
    return [
        name
        for name, text in files().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
