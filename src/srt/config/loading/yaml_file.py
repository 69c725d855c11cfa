"""YAML files as mappings: one sentence says what is wrong and in which line.

Repeated keys are refused, and so are numbers that YAML 1.1 reads otherwise than people do: `010` is 8, `1:30` is 90.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from srt.common.errors import SrtError, nearest
from srt.config.explain import show

_MERGE, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("merge", "int", "float"))
_DIGITS = 300  # longest number: a float holds no more digits, and Python converts at most 4,300


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that refuses a repeated key, of which PyYAML would silently use the last, and misleading numbers."""


class _Refused(yaml.YAMLError):
    """Valid YAML that is refused; the message names the line and the fix."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if isinstance(key, Hashable) and key in seen:
            raise _Refused(f"line {line}: key '{key}' appears twice (first in line {seen[key]}): rename or remove one")
        if isinstance(key, Hashable):
            seen[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _number(loader: Any, node: yaml.ScalarNode) -> int | float:
    text, line = node.value, node.start_mark.line + 1
    if len(text) > _DIGITS:
        raise _Refused(f"line {line}: the number has {len(text):,} characters: shorten it to {_DIGITS} or fewer")
    construct = loader.construct_yaml_int if node.tag == _INT else loader.construct_yaml_float
    try:
        value = construct(node)
    except ValueError:
        raise _Refused(f"line {line}: {text!r} is not a number: correct it") from None
    octal = re.fullmatch(r"[-+]?0[0-7_]+", text) is not None
    if octal or ":" in text:
        base = "octal" if octal else "in base 60"
        raise _Refused(f"line {line}: YAML reads {text} as {value} ({base}): write {value}, or put {text} in quotes")
    return value


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor(_INT, _number)
_StrictLoader.add_constructor(_FLOAT, _number)


def read_yaml(path: Path, shown: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML file; {} if the file is empty.

    Args:
        path: the file.
        shown: its name in messages; default: the path itself.

    Raises:
        SrtError: there is no such file, it is not valid YAML, or its top level is no mapping.
    """
    name = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.load(text, _StrictLoader)  # a SafeLoader: builds no objects
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("[!.]*.y*ml")]) if path.parent.is_dir() else ""
        raise SrtError(f"{name} does not exist: correct the path{near}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise SrtError(f"{name} cannot be read ({error.strerror}): name a readable YAML file") from None
    except UnicodeDecodeError as error:
        raise SrtError(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except _Refused as error:
        raise SrtError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        raise SrtError(f"{name}: {_yaml_fault(error, text)}") from None
    except RecursionError:
        raise SrtError(f"{name}: is nested too deeply: flatten it") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SrtError(f"{name}: the top level must be a mapping of keys, not {show(data)}: write `key: value` lines")
    return data


def _yaml_fault(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"is not valid YAML ({' '.join(str(error).split())}): correct it"
    line, lines = mark.line + 1, text.splitlines()
    for number in {line, max(1, line - 1)}:
        if (
            number <= len(lines)
            and "\t" in lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]
        ):
            return f"line {number}: is not valid YAML: it is indented with a tab: use spaces"
    problem = f"{error.problem}" + (f" {error.context}" if getattr(error, "context", None) else "")
    return f"line {line}: is not valid YAML ({problem}): correct that line or the one above it"
