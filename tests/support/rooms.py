"""The rooms of src/srt in their order, and their picture, docs/images/rooms.svg.

`.venv/bin/python tests/support/rooms.py` draws the picture again from this list and the first docstring line of each
room.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/images/rooms.svg"

# From the bottom up: a room may import the rooms listed before it.
STAGES: dict[str, tuple[str, ...]] = {
    "foundations": ("common", "config", "artefacts"),
    "problems, answers": ("data", "answers"),
    "engines, machines": ("rollout", "cost", "cluster"),
    "models, evaluation": ("labels", "models", "metrics", "evaluation"),
    "training": ("rewards", "objective", "packing", "distributed", "training"),
    "workflow": ("workflow", "gpu_check"),
    "results": ("figures", "audit", "browser", "claims", "plan", "report", "results"),
    "command line": ("cli",),
}
ROOMS = tuple(room for rooms in STAGES.values() for room in rooms)
WITHOUT_TORCH = (
    "common", "config", "artefacts", "rewards", "metrics", "figures", "audit", "browser", "claims", "plan", "report",
    "results", "workflow",
)  # fmt: skip

# Colour of a stage and of its background, from the bottom to the top.
_COLORS = (
    ("#4a5763", "#eceff1"), ("#00745a", "#e3f3ee"), ("#8a5a00", "#faf1dd"), ("#1f5f8b", "#e4eff7"),
    ("#a8431a", "#fbeae2"), ("#5b3b8c", "#eeeaf6"), ("#8c2155", "#f8e7ef"), ("#2b2f33", "#e9eaeb"),
)  # fmt: skip
_TOP, _ROW, _GAP = 92, 38, 10  # pixels: above the first stage, of a room, between stages
_WIDTH = 125  # characters that fit beside the name of a room


def first_line(room: str) -> str:
    """The first line of a room's docstring; "" where there is no such room."""
    path = ROOT / "src/srt" / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return (docstring or "").partition("\n")[0]


def picture() -> str:
    """The rooms as SVG, the top one first: what each is for, and what it must not import."""
    from srt.common.markup import fill_template

    stages: list[dict[str, Any]] = []
    y = _TOP
    for (title, rooms), (color, pale) in reversed(list(zip(STAGES.items(), _COLORS, strict=True))):
        boxes: list[dict[str, Any]] = []
        for room in reversed(rooms):
            if line := first_line(room).replace("`", ""):
                if len(line) > _WIDTH:
                    raise ValueError(f"src/srt/{room}/__init__.py: the first line has more than {_WIDTH} characters")
                what, _, must_not = line.partition(". ")
                box = {"name": room, "what": what.rstrip("."), "must_not": must_not.rstrip(".")}
                boxes.append({**box, "without_torch": room in WITHOUT_TORCH, "y": y + _ROW * len(boxes)})
        if not boxes:
            continue
        height, lines = _ROW * len(boxes), title.split(", ")
        lines = [f"{line}," for line in lines[:-1]] + lines[-1:]
        stages.append(
            {"y": y, "height": height, "color": color, "pale": pale, "title": lines, "rooms": boxes,
             "title_y": y + height // 2 + 5 - 9 * (len(lines) - 1)}
        )  # fmt: skip
        y += height + _GAP
    template = Path(__file__).with_suffix(".svg").read_text(encoding="utf-8")
    return fill_template(template, stages=stages, top=_TOP, bottom=y - _GAP, height=y + 14)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
