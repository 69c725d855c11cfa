"""The rooms of src/srt: imports go down their list, never in circles, and rooms of tables do without torch."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support import rooms
from support.rooms import ROOMS, WITHOUT_TORCH

HEAVY = ("torch", "transformers", "deepspeed", "vllm")


def modules(source: Path) -> dict[str, ast.Module]:
    """Each module under `source`/srt by its dotted name; a package's `__init__` has the package's name."""
    found = {}
    for path in sorted((source / "srt").rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(nodes: Iterator[ast.AST], known: Container[str]) -> Iterator[str]:
    """Names of the modules that `nodes` import: `srt.a.b` for `from srt.a import b` if that is in `known`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"line {node.lineno}: write the whole name of the module"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names)


def room(name: str) -> str:
    """`srt.training.update` -> `training`, `srt` -> ``."""
    return name.partition(".")[2].partition(".")[0]


def faults(source: Path) -> list[str]:
    """A sentence for each package outside ROOMS and each import that goes up, and the first circle of modules."""
    trees = modules(source)
    del trees["srt"]
    said = [f"{name} is not in ROOMS" for name in trees if name.count(".") == 1 and room(name) not in ROOMS]
    trees = {name: tree for name, tree in trees.items() if room(name) in ROOMS}
    edges = {name: set(imports(ast.walk(tree), trees)) & set(trees) - {name} for name, tree in trees.items()}
    for name, others in edges.items():
        for other in sorted(others):
            if ROOMS.index(room(other)) > ROOMS.index(room(name)):
                said.append(f"{name} imports {other}: '{room(name)}' is below '{room(other)}'")
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        said.append("circle: " + " <- ".join(error.args[1]))
    return said


def test_imports_go_down_and_never_in_circles(root: Path) -> None:
    assert faults(root / "src") == []


def test_an_upward_import_and_a_circle_are_found(tmp_path: Path) -> None:
    for name, text in {
        "__init__.py": "",
        "common/a.py": "import srt.plan.b",
        "plan/b.py": "def f():\n    from srt.plan import c",
        "plan/c.py": "import srt.plan.b",
        "attic/d.py": "",
        "e.py": "",
    }.items():
        path = tmp_path / "srt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    (tmp_path / "srt/attic/__init__.py").touch()
    outside, module, upward, circle = faults(tmp_path)
    assert (outside, module) == ("srt.attic is not in ROOMS", "srt.e is not in ROOMS")
    assert upward == "srt.common.a imports srt.plan.b: 'common' is below 'plan'"
    assert circle.startswith("circle: srt.plan.")


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rooms_of_tables_import_no_torch(root: Path, name: str) -> None:
    """Not while they are imported, nor through another room; a function may import torch when it is called."""
    trees = modules(root / "src")
    todo, seen = [module for module in trees if room(module) == name], set()
    while todo:
        module = todo.pop()
        seen.add(module)
        for other in imports(iter(trees[module].body), trees):
            assert other.split(".")[0] not in HEAVY, f"{module} imports {other}"
            packages = (other.rsplit(".", depth)[0] for depth in range(other.count(".") + 1))  # run before it
            todo += [package for package in packages if package in trees and package not in seen]


def test_only_the_workflow_room_imports_snakemake(root: Path) -> None:
    for name, tree in modules(root / "src").items():
        used = [other for other in imports(ast.walk(tree), ()) if other.startswith("snakemake")]
        assert not used or room(name) == "workflow", f"{name} imports {used[0]}"


def test_every_room_says_what_it_is_for(root: Path) -> None:
    for name in ROOMS:
        if (root / "src" / "srt" / name).is_dir():
            assert len(rooms.first_line(name)) > 30, f"src/srt/{name}/__init__.py: say what the room is for"


def test_the_picture_of_the_rooms_is_not_stale() -> None:
    told = "draw it again: .venv/bin/python tests/support/rooms.py"
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(), told


def test_no_test_imports_another_test(root: Path) -> None:
    """What tests share is in tests/support."""
    for path in sorted((root / "tests").rglob("*.py")):
        for name in imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), ()):
            assert not name.startswith(("test_", "conftest")), f"{path.relative_to(root)} imports {name}"
