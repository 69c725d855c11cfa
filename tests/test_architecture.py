"""The house: rooms in one order, imports downwards only, no circle, no torch where tables are enough."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the bottom to the top: a room imports rooms before it, never one behind it.
ROOMS = (
    "common", "config", "artefacts", "data", "answers", "rollout", "cost", "cluster", "labels", "models", "metrics",
    "evaluation", "objective", "packing", "distributed", "training", "workflow", "figures", "audit", "browser",
    "claims", "plan", "report", "cli",
)  # fmt: skip
WITHOUT_TORCH = ("config", "artefacts", "metrics", "figures", "audit", "browser", "claims", "plan", "workflow")


def modules(source: Path) -> dict[str, ast.Module]:
    """Each module below `source`/srt by its dotted name; a package's __init__ has the package's name."""
    found = {}
    for path in sorted((source / "srt").rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module, known: set[str], all_of_them: bool = True) -> Iterator[str]:
    """Modules that a module imports: wherever it does, or only while it is being imported itself."""
    for node in ast.walk(tree) if all_of_them else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


def room(name: str) -> str:
    """`srt.training.update` -> `training`."""
    return name.split(".")[1] if "." in name else ""


def faults(source: Path) -> list[str]:
    """A sentence for each import that goes up, each circle of modules, each room out of the order."""
    trees = modules(source)
    said = [f"{name}: src/srt holds rooms only" for name in trees if name.count(".") == 1 and room(name) not in ROOMS]
    edges: dict[str, set[str]] = {}
    for name, tree in trees.items():
        edges[name] = {other for other in imports(tree, set(trees)) if other in trees and other != name}
        for other in sorted(edges[name]):
            if room(name) in ROOMS and room(other) in ROOMS and ROOMS.index(room(other)) > ROOMS.index(room(name)):
                said.append(f"{name} imports {other}: '{room(name)}' stands below '{room(other)}'")
    state: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for other in sorted(edges[name]):
            if state.get(other) == 1:
                said.append("circle: " + " -> ".join([*path[path.index(other) :], other] if other in path else [other]))
            elif other not in state:
                visit(other, [*path, other])
        state[name] = 2

    for name in edges:
        if name not in state:
            visit(name, [name])
    return said


def test_imports_go_down_and_never_in_circles(root: Path) -> None:
    assert faults(root / "src") == []


def test_an_upward_import_and_a_circle_are_found(tmp_path: Path) -> None:
    for name, text in {
        "common/a.py": "import srt.plan.b",
        "plan/b.py": "from srt.plan import c",
        "plan/c.py": "import srt.plan.b",
    }.items():
        path = tmp_path / "srt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    said = faults(tmp_path)
    assert "srt.common.a imports srt.plan.b: 'common' stands below 'plan'" in said
    assert any(sentence.startswith("circle: srt.plan") for sentence in said)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rooms_of_tables_import_no_torch(root: Path, name: str) -> None:
    """Not at import time, and not through another room."""
    trees = modules(root / "src")
    todo, seen = [module for module in trees if room(module) == name], set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for other in imports(trees[module], set(trees), all_of_them=False):
            assert other.split(".")[0] not in ("torch", "transformers", "deepspeed", "vllm"), (
                f"{module} imports {other}"
            )
            todo += [other] * (other in trees)


def test_every_room_says_what_it_is_for(root: Path) -> None:
    for name in ROOMS:
        folder = root / "src" / "srt" / name
        if folder.is_dir():
            text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
            assert text and len(text.splitlines()[0]) > 30, f"src/srt/{name}/__init__.py: say what the room is for"


def test_no_test_imports_another_test(root: Path) -> None:
    """What tests share is in tests/support."""
    for path in sorted((root / "tests").rglob("*.py")):
        for name in imports(ast.parse(path.read_text(encoding="utf-8")), set()):
            assert not name.startswith(("test_", "conftest")), f"{path.relative_to(root)} imports {name}"
