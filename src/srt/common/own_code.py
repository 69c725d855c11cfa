"""A user's own functions, `module:function` in the configuration: where they are, their hash, and their call.

A module is one file, beside the main configuration file or in a folder of PYTHONPATH. Its SHA-256 is part of the
reference in every spec, `module:function@hash`, so a changed file is a changed spec. A file that it imports would be
outside of this hash, so imports from the same folders are refused; installed packages and `srt` are not.

Nothing here runs a user's code but `load`, which only jobs call: while a configuration is read, its file is parsed.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError, nearest

FOLDERS = "SRT_CODE"  # environment variable: the folders, as the workflow sets it for its jobs
PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
# what a function of each kind may ask for, by the names of its parameters
PARAMETERS = {
    "reward": ("responses", "answers", "problem", "task", "label"),
    "extractor": ("response",),
    "task": ("answer",),
    "reader": ("path",),
    "prompt": ("problem", "suffix"),
}


@dataclass(frozen=True)
class Source:
    """The file of a function: its SHA-256, and the names of the function's parameters."""

    file: Path
    sha256: str
    parameters: tuple[str, ...]


def is_own(name: str) -> bool:
    """Whether a name of a reward, an extractor or a task is a reference to a user's own function."""
    return ":" in name


def search_folders(configfiles: Iterable[str | Path] = (), root: Path | None = None) -> tuple[Path, ...]:
    """The folders of these configuration files, or those that a workflow gave its jobs, then those of PYTHONPATH."""
    beside = [(root or Path.cwd()) / Path(file).parent for file in configfiles]
    given = [] if beside else os.environ.get(FOLDERS, "").split(os.pathsep)
    found = [*beside, *map(Path, given + os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return tuple(dict.fromkeys(Path(os.path.abspath(folder)) for folder in found if str(folder) not in ("", ".")))


def source_of(reference: str, folders: Sequence[Path]) -> Source:
    """Find and parse the file of a reference, without running it.

    Raises:
        SrtError: there is no such file or function, or the file imports a neighbour.
    """
    module, _, function = reference.partition("@")[0].partition(":")
    relative = Path(*module.split(".")).with_suffix(".py")
    file = next((folder / relative for folder in folders if (folder / relative).is_file()), None)
    if file is None:
        beside = sorted({path.stem for folder in folders for path in folder.glob("*.py")})
        raise SrtError(
            f"{relative} is neither beside the configuration file nor in a folder of PYTHONPATH"
            f"{nearest(module, beside)}: put it there"
        )
    return _parsed(file, function, tuple(folders), file.stat().st_mtime_ns)


@cache
def _parsed(file: Path, function: str, folders: tuple[Path, ...], _changed: int) -> Source:
    from srt.common.io import sha256_bytes

    content = file.read_bytes()
    try:
        tree = ast.parse(content, str(file))
    except SyntaxError as error:
        raise SrtError(f"{file}, line {error.lineno}: {error.msg}: correct it") from None
    for node in ast.walk(tree):
        _refuse_neighbours(node, file, folders)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in functions:
        raise SrtError(f"{file} has no function '{function}'{nearest(function, functions)}")
    arguments = functions[function].args
    if arguments.posonlyargs or arguments.vararg or arguments.kwarg:
        raise SrtError(f"{file}: '{function}' must name each of its parameters: remove *, ** and /")
    names = tuple(argument.arg for argument in [*arguments.args, *arguments.kwonlyargs])
    return Source(file, sha256_bytes(content), names)


def _refuse_neighbours(node: ast.AST, file: Path, folders: tuple[Path, ...]) -> None:
    if isinstance(node, ast.ImportFrom):
        names = ["." * node.level + (node.module or "")]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return
    for name in names:
        top = name.partition(".")[0]
        near = any((folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file() for folder in folders)
        if top != "srt" and (not top or near):
            raise SrtError(
                f"{file}, line {node.lineno}: imports {name}, whose changes would not train again: put what it needs "
                "into this file, or install it as a package"
            )


def check_function(kind: str, reference: str, folders: Sequence[Path]) -> Source:
    """Like `source_of`, for a function of a kind: it may ask only for what this kind is given.

    Raises:
        SrtError: also for a parameter with another name.
    """
    source, allowed = source_of(reference, folders), PARAMETERS[kind]
    unknown = [name for name in source.parameters if name not in allowed]
    if unknown or not source.parameters:
        given = f"parameter '{unknown[0]}' is not" if unknown else "it has no parameter: take one"
        raise SrtError(f"{source.file}: '{reference.partition(':')[2]}': {given} of {', '.join(allowed)}")
    return source


def pinned(reference: str, folders: Sequence[Path]) -> str:
    """The reference with the hash of its file, for a spec; a name that is no reference stays as it is."""
    if not is_own(reference) or "@" in reference:
        return reference
    return f"{reference}@{source_of(reference, folders).sha256}"


def load(kind: str, reference: str, folders: Sequence[Path] | None = None) -> Callable[..., Any]:
    """The function, which is called with all that its kind is given, by name, and takes what it asks for.

    Args:
        reference: with a hash, which the file must then have.
        folders: where to look; None means `search_folders()`.

    Raises:
        SrtError: as `check_function`; the file has changed since its hash was taken, or fails when it is imported.
    """
    source = check_function(kind, reference, search_folders() if folders is None else folders)
    name, _, digest = reference.partition("@")
    if digest and digest != source.sha256:
        raise SrtError(f"{source.file} changed after the workflow was planned: start the workflow again")
    function = getattr(_module(source), name.partition(":")[2])

    def call(**given: Any) -> Any:
        try:
            return function(**{key: given[key] for key in source.parameters})
        except Exception as error:  # of a user's code, in which anything may happen: say where, keep the cause
            raise SrtError(
                f"{name} ({kind}) failed: {type(error).__name__}: {error}{_line(error, source.file)}"
            ) from error

    return call


@cache
def _module(source: Source) -> Any:
    """The module of a file, imported under a name of its own, so that it hides no other module."""
    name = f"srt_own_{source.file.stem}_{source.sha256[:16]}"
    spec = importlib.util.spec_from_file_location(name, source.file)
    if spec is None or spec.loader is None:
        raise SrtError(f"{source.file} cannot be imported: name it .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SrtError(
            f"{source.file} cannot be imported: {type(error).__name__}: {error}{_line(error, source.file)}"
        ) from error
    return module


def _line(error: BaseException, file: Path) -> str:
    """Where in the file an error happened, for a sentence."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({file.name}, line {line})" if line else ""
