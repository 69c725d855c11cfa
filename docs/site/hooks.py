"""What MkDocs does beside its plugins: pages from files outside of docs, and links where a text names a page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from mkdocs.structure.files import File, Files
from reference import pages

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# `docs/data.md` in a text, with or without backticks and an anchor; not in a longer path, a link or an address
_PAGE = re.compile(r"(?<![\w/\[#.])(?<!\]\()(`?)(?:docs/)([\w/]+\.md)(#[\w-]+)?\1(?![\w\]/])")
_CODE = re.compile(r"^(```.*?^```|(?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of docs."""
    made = pages() | {page: (ROOT / name).read_text(encoding="utf-8") for name, page in OUTSIDE.items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn each page of the site that a text names into a link to it, and links that GitHub reads into the site's."""
    here = page.file.src_uri
    source = "" if here in OUTSIDE.values() else dirname(here)

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if files.get_file_from_path(target) is None:
            return found[0]
        return f"[{target.removesuffix('.md')}]({relpath(target, dirname(here) or '.')}{found[3] or ''})"

    def moved(found: re.Match[str]) -> str:
        """A link from CONTRIBUTING.md, which is at the root: docs/images/a.svg -> images/a.svg."""
        path = os.path.normpath(os.path.join(source, found[2]))
        return f"{found[1]}{path.removeprefix('docs/')})" if path.startswith("docs/") else found[0]

    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        if here in OUTSIDE.values():
            parts[i] = re.sub(r"(\]\()([\w./-]+)\)", moved, parts[i])
        parts[i] = _PAGE.sub(link, parts[i])
    return "".join(parts)
