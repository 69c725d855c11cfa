"""A Python with PyTorch, transformers and tables alone: no DeepSpeed, vLLM or Snakemake, as on a bare image."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("torch", "transformers", "numpy", "pandas", "pyarrow", "pydantic")


def bare_python(folder: Path, source: Path) -> tuple[list[str], dict[str, str]]:
    """The words that start it, and its environment; `folder` gets links to PACKAGES and to what they require."""
    todo, seen = list(PACKAGES), set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # optional on this platform
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
        for top in {str(file).partition("/")[0] for file in found.files or []} - {"..", "__pycache__"}:
            place, link = Path(str(found.locate_file(top))), folder / top
            if place.exists() and not link.exists():
                link.symlink_to(place)
    path = os.pathsep.join(map(str, (folder, source)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return [str(Path(sys.executable).resolve()), "-S"], kept | {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1"}
