"""Reading the configuration: YAML with unique keys, files put together, one sentence for each mistake."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from srt.config.datasets import parse_dataset
from srt.config.root import Config
from srt.config.runs import Train
from srt.errors import SrtError, nearest

SECTIONS = ("models", "datasets", "suites", "runs", "figures")
DEFAULT = "config/config.yaml"


class _UniqueKeys(yaml.SafeLoader):
    """A loader for which a repeated key is an error, not a silent replacement."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise SrtError(f"{loader.name}: line {line}: key '{key}' is there twice: rename or remove one")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda l, n: _mapping(l, n, True))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a missing, broken or other file is a `SrtError`."""
    try:
        with open(path, encoding="utf-8") as handle:
            loader = _UniqueKeys(handle)
            loader.name = str(path)
            try:
                data = loader.get_single_data()
            finally:
                loader.dispose()
    except FileNotFoundError:
        raise SrtError(f"{path} does not exist: correct the path under `files` in the config") from None
    except yaml.YAMLError as error:
        raise SrtError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SrtError(f"{path}: the top level must be a mapping of keys, not a {type(data).__name__}")
    return data


def load_config(raw: dict[str, Any], root: Path, origin: str = DEFAULT) -> Config:
    """Put the configuration together and validate it.

    Args:
        raw: the main config (Snakemake's merged `config`), with `files` naming one YAML file a section.
        root: the folder that relative paths in `files` start from.
        origin: the main file's name, for messages.
    """
    merged = {k: v for k, v in raw.items() if k != "files"}
    sources = dict.fromkeys(SECTIONS, origin)
    files = raw.get("files") or {}
    for section, path in files.items():
        if section not in SECTIONS:
            raise SrtError(f"{origin}: files: unknown section '{section}'{nearest(section, SECTIONS)}")
        if section in raw:
            raise SrtError(f"{origin}: '{section}' is given here and as files: {section}: keep one")
        merged[section] = read_yaml(root / path)
        sources[section] = str(path)
    _inherit_defaults(merged, origin, sources["runs"])
    for name, entry in (merged.get("datasets") or {}).items():
        try:
            parse_dataset(str(name), entry)
        except SrtError as error:
            raise SrtError(f"{sources['datasets']}: {error}") from None
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise SrtError(explain(error, sources, origin)) from None
    except SrtError as error:
        section = str(error).partition(":")[0]
        raise SrtError(f"{sources.get(section, origin)}: {error}") from None


def _inherit_defaults(merged: dict[str, Any], origin: str, runs_file: str) -> None:
    defaults = merged.get("train_defaults") or {}
    if not isinstance(defaults, dict):
        raise SrtError(f"{origin}: train_defaults: must be a mapping")
    for key in defaults:
        if key not in Train.model_fields:
            raise SrtError(f"{origin}: train_defaults: unknown key '{key}'{nearest(key, Train.model_fields)}")
    runs = merged.get("runs")
    if not isinstance(runs, dict):
        return
    merged["runs"] = {}
    for name, entry in runs.items():
        if isinstance(entry, dict):
            own = entry.get("train") or {}
            if not isinstance(own, dict):
                raise SrtError(f"{runs_file}: {name}: train: must be a mapping")
            train = {**defaults, **own}
            entry = {**entry, "train": train}
        merged["runs"][name] = entry


def explain(error: ValidationError, sources: dict[str, str], origin: str) -> str:
    """One sentence for the first problem: file, key, what is wrong, the nearest known key."""
    # a misspelt key is named before the required one that it leaves missing
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"]]
    model, path, fields = _walk(Config, location)
    section = path[0] if path else ""
    file = sources.get(section, origin)
    if file != origin and section in sources:
        path = path[1:]
    where = f"{file}: {': '.join(path)}" if path else file
    kind = first["type"]
    if kind == "extra_forbidden":
        parent = ": ".join(path[:-1])
        return f"{file}: {parent + ': ' if parent else ''}unknown key '{path[-1]}'{nearest(path[-1], fields)}"
    if kind == "missing":
        return f"{where}: is missing: add it"
    if kind == "union_tag_not_found":
        return f"{where}: source: is missing: set hub, local or tiny"
    if kind == "union_tag_invalid":
        tag = first["ctx"]["tag"]
        return f"{where}: source: unknown '{tag}'{nearest(tag, ['hub', 'local', 'tiny'])}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _walk(model: type[BaseModel], location: list[str]) -> tuple[type[BaseModel], list[str], list[str]]:
    """Follow an error's location through the models: the innermost model, the keys as a user wrote them, its fields."""
    path: list[str] = []
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            path.append(part)
            field = current.model_fields.get(part)
            if field is None:
                return current, path, list(current.model_fields)
            current = field.annotation
            continue
        origin = typing.get_origin(current)
        arguments = typing.get_args(current)
        if origin in (dict, list):
            path.append(part)
            current = arguments[-1]
            continue
        members = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
        if hasattr(current, "__metadata__"):  # Annotated union: the tag is part of the location, not of the file
            members = [a for a in typing.get_args(arguments[0]) if isinstance(a, type)]
        tagged = [m for m in members if part in typing.get_args(m.model_fields["source"].annotation)] if len(members) > 1 else []
        if tagged:
            current = tagged[0]
            continue
        if len(members) == 1:
            current = members[0]
            path.append(part)
            field = current.model_fields.get(part)
            if field is None:
                return current, path, list(current.model_fields)
            current = field.annotation
            continue
        path.append(part)
    return model, path, []
