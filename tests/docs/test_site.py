"""The pages of the site: each is in its menu, and messages, files and words that they quote are real."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from srt.config import load_config, read_yaml
from support import ROOT

DOCS = ROOT / "docs"
# a template is no page, but a page is made from it
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "template.md")
MADE_AT_BUILD = {"reference/commands.md", "reference/library.md", "contributing.md", "changelog.md"}


def menu() -> list[str]:
    """The pages of mkdocs.yml, in order."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return re.findall(r"^ +- .*: (\S+\.md)$", text.partition("\nnav:")[2], re.MULTILINE)


def test_every_page_is_in_the_menu_once() -> None:
    assert len(menu()) == len(set(menu()))
    assert set(menu()) == set(PAGES) | MADE_AT_BUILD


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (DOCS / page).read_text(encoding="utf-8")):
        if "://" not in link and "{{" not in link:
            target = ((DOCS / page).parent / link).resolve()
            assert target.exists() or str(target.relative_to(DOCS)) in MADE_AT_BUILD, f"{page}: {link}"


def sources() -> str:
    """Every text in the library and the scripts, f-strings without their values, and the set-up script."""
    texts = [(ROOT / "envs/setup.sh").read_text(encoding="utf-8")]
    for folder in ("src/srt", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_each_message_of_troubleshooting_is_one_of_the_program() -> None:
    page, known = (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), sources()
    messages = [found[2] for found in re.finditer(r"^\| (`+) ?(.*?) ?\1 \| ", page, re.MULTILINE)]
    assert len(messages) > 40
    for message in messages:
        for part in (part for part in message.split("…") if len(part.strip(" ():'")) > 3):
            assert part in known, f"{message}: '{part}'"


def test_the_tutorial_s_entries_load() -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    raw = read_yaml(ROOT / "config/smoke.yaml")
    sections = {name: read_yaml(ROOT / path) for name, path in raw.pop("files").items()}
    names = {"experiments": "runs", "figures": "figures", "claims": "claims"}
    for file, block in re.findall(r"```yaml\n# config/smoke/(\w+)\.yaml\n(.*?)```", text, re.DOTALL):
        sections[names[file]] |= yaml.safe_load(block)
    config = load_config({**raw, **sections}, ROOT)
    assert config.runs["threshold_mix"].train.majority_threshold == 0.5
    assert {"agreement"} <= set(config.figures) and {"half_must_agree_helps"} <= set(config.claims)


def test_the_picture_of_the_data_s_way_names_rules() -> None:
    picture = (DOCS / "images/data_way.svg").read_text(encoding="utf-8")
    rules = re.findall(r"^rule (\w+):", "\n".join(p.read_text() for p in (ROOT / "rules").glob("*.smk")), re.MULTILINE)
    shown = {name for title in re.findall(r'font-weight="bold"[^>]*>([^<]+)<', picture) for name in title.split(", ")}
    assert shown - {"one rule per figure"} <= set(rules)
    assert Path(DOCS / "rulegraph.svg").is_file()
