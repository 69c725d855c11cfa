"""Pages of the site that are made when it is built: the commands of `srt`, and the modules of the library."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
from pathlib import Path

import srt
from srt.cli.__main__ import COMMANDS

SOURCE = Path(srt.__file__).parent


def pages() -> dict[str, str]:
    """Path below docs -> text."""
    return {"reference/commands.md": commands(), "reference/library.md": library()}


def commands() -> str:
    """Each command of `srt`: what it does, how it is called, its options."""
    parts = ["# Commands", "Each is `srt COMMAND` in the repository root; `srt COMMAND --help` prints the same."]
    for name in COMMANDS:
        module = importlib.import_module(f"srt.cli.{name.replace('-', '_')}")
        parser = argparse.ArgumentParser(prog=f"srt {name}", add_help=False)
        module.options(parser)
        parts += [f"## srt {name}", *_paragraphs(inspect.cleandoc(module.__doc__ or ""))]
        rows = [_row(action) for action in parser._actions]
        parts += ["\n".join(["| option | meaning |", "|---|---|", *rows])] if rows else []
    return "\n\n".join(parts) + "\n"


def library() -> str:
    """The rooms of the library from the bottom up, each with its modules and the first lines of their docstrings."""
    parts = [
        "# The library",
        "`src/srt` by room, with what each module is for. A room imports only rooms that are lower in "
        "[the picture](../architecture.md#the-house).",
    ]
    for folder in sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").is_file()):
        modules = sorted(path for path in folder.rglob("*.py") if path != folder / "__init__.py")
        rows = [f"| `{_name(path)}` | {_cell(_first_line(path))} |" for path in modules if _first_line(path)]
        table = ["| module | |", "|---|---|", *rows]
        parts += [f"## srt.{folder.name}", *_paragraphs(_docstring(folder / "__init__.py")), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def _name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _first_line(path: Path) -> str:
    return _docstring(path).partition("\n")[0]


def _paragraphs(docstring: str) -> list[str]:
    """The paragraphs of a docstring; lines of commands, code and tables keep their layout."""
    parts = []
    for text in docstring.split("\n\n"):
        keeps = text.startswith(("srt ", "with ", " ")) or re.search(r"^\w+ {2,}", text, re.MULTILINE)
        parts.append(f"```\n{text}\n```" if keeps else " ".join(_escaped(text).split()))
    return parts


def _row(action: argparse.Action) -> str:
    words = list(action.option_strings) or [str(action.metavar or action.dest)]
    if action.option_strings and action.nargs != 0:
        value = action.metavar or action.dest.upper()
        words = [f"{word} {' '.join(value) if isinstance(value, tuple) else value}" for word in words]
    shown = (action.help or "") % {**vars(action), "prog": "srt"}
    return f"| `{', '.join(words)}` | {_cell(shown)} |"


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text outside of code spans cannot be read as HTML."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))
