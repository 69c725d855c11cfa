"""Reading the configuration: YAML with unique keys, files put together, one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from srt.common.errors import SrtError, nearest
from srt.config.base import SECTIONS, ConfigError
from srt.config.checks import check
from srt.config.explain import first_problem, show
from srt.config.root import Config
from srt.config.runs import Train

DEFAULT = "config/config.yaml"
_MERGE = "tag:yaml.org,2002:merge"


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader for which a repeated key is an error, not a silent replacement."""


class _RepeatedKey(yaml.YAMLError):
    """A key that stands twice in one mapping."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if isinstance(key, Hashable) and key in seen:
            raise _RepeatedKey(
                f"line {line}: key '{key}' is there twice (first in line {seen[key]}): rename or remove one"
            )
        if isinstance(key, Hashable):
            seen[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, shown: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML file ({} if it is empty); a missing, broken or other file is a `SrtError`.

    Args:
        path: the file.
        shown: its name in messages; default: the path itself.
    """
    name = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.load(text, _UniqueKeys)  # a SafeLoader: builds no objects
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
        raise SrtError(f"{name} does not exist: correct the path{near}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise SrtError(f"{name} cannot be read ({error.strerror}): name a readable YAML file") from None
    except UnicodeDecodeError as error:
        raise SrtError(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except _RepeatedKey as error:
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


def load_config(
    raw: dict[str, Any], root: Path, origin: str = DEFAULT, configfiles: Sequence[str | Path] = ()
) -> Config:
    """Put the configuration together and validate it; the first mistake is a `SrtError` of one line.

    Args:
        raw: the main config (Snakemake's merged `config`), with `files` naming one YAML file a section.
        root: the folder that relative paths in `files` start from.
        origin: the main file's name, for messages.
        configfiles: the files that `raw` was merged from, if Snakemake read them: they are read again for repeated
            keys, which its own loader lets pass, and to tell what came from `--config` instead.
    """
    try:
        return _Loader(raw, root, origin, configfiles).load()
    except SrtError as error:
        raise SrtError(" ".join(str(error).split())) from None


def read_resolved(path: Path) -> Config:
    """The whole configuration that a workflow wrote into its results folder (`config.json`), checked again."""
    from srt.common.io import read_json  # imports pandas, which doubles the start-up time

    config = Config.model_validate(read_json(path))
    check(config)
    return config


class _Loader:
    """One load: the merged mapping, and the file that each top-level key came from."""

    def __init__(self, raw: dict[str, Any], root: Path, origin: str, configfiles: Sequence[str | Path]) -> None:
        self.raw, self.root, self.origin = raw, root, origin
        self.files: dict[str, str] = {}  # sections that have files of their own, to the first
        self.homes: dict[tuple[str, str], str] = {}  # (section, id) to the file that has it
        self.contents: list[tuple[str, Any]] = []  # main files by name, for `at`
        for file in configfiles:
            self.origin = _shown(Path(file), root)
            self.contents.append((self.origin, read_yaml(root / file, self.origin)))

    def load(self) -> Config:
        # a top-level key whose lines are all commented out is as good as absent
        merged = {str(k): v for k, v in self.raw.items() if k != "files" and v is not None}
        files = self.raw.get("files")
        if files is not None and not isinstance(files, dict):
            raise SrtError(
                f"{self.at(['files'])}: must be a mapping of keys, not {show(files)}: write `models: FILE` lines"
            )
        for section, path in (files or {}).items():
            merged[section] = self.section(section, path)
        inheritance = _Inheritance(merged.get("runs"), self.at)
        if isinstance(merged.get("runs"), dict):
            merged["runs"] = inheritance.resolved()
        self.inherit_defaults(merged)
        try:
            config = Config.model_validate(merged)
            check(config)
            return config
        except ValidationError as error:
            problem = first_problem(Config, error)
            path, message = problem.path, problem.message
        except ConfigError as error:
            path, message = error.path, error.message
        if len(path) > 1 and path[0] == "runs":  # name the entry that has the key, not one that takes it over
            unknown = message.split("'")[1:2] if message.startswith("unknown key '") else []
            path = ["runs", inheritance.owner(path[1], [*path[2:], *unknown]), *path[2:]]
        if len(path) == 1 and path[0] in SECTIONS and message.startswith("is missing"):
            message = f"is missing: write it here, or name its file under files: {path[0]}"
        if not path and message.startswith("unknown key '"):
            raise SrtError(f"{self.main_file([message.split(chr(39))[1]])}: {message}")
        raise SrtError(f"{self.at(path)}: {message}")

    def at(self, path: Sequence[str]) -> str:
        """File and keys, as a person would look them up."""
        if path and path[0] in self.files:
            home = self.homes.get((path[0], path[1])) if len(path) > 1 else None
            return ": ".join([home or self.files[path[0]], *path[1:]])
        return ": ".join([self.main_file(path), *path])

    def main_file(self, path: Sequence[str]) -> str:
        """The main file that has the value under these keys, or `--config` if none has."""
        keys = list(path)
        while keys and _look_up(self.raw, keys) is None:
            keys.pop()
        value = _look_up(self.raw, keys)
        holders = [name for name, data in self.contents if _look_up(data, keys) == value]
        if not self.contents or not keys:
            return self.origin
        return holders[-1] if holders else "--config"

    def section(self, section: str, paths: Any) -> Any:
        """The mapping of a section in a file of its own, or in several."""
        where = self.at(["files"])
        if section not in SECTIONS:
            raise SrtError(f"{where}: unknown section '{section}'{nearest(str(section), SECTIONS)}")
        merged: dict[str, Any] = {}
        if paths == []:
            raise SrtError(f"{where}: {section}: is empty: give the path of a YAML file, or remove the key")
        for path in paths if isinstance(paths, list) else [paths]:
            for key, entry in self.file(section, path, where).items():
                home = self.homes.get((section, str(key)))
                if home is not None:
                    raise SrtError(f"{path}: id '{key}' is in {home}, too: rename or remove one")
                self.homes[section, str(key)] = path
                merged[key] = entry
        return merged

    def file(self, section: str, path: Any, where: str) -> dict[str, Any]:
        """The mapping in one file of a section."""
        if not isinstance(path, str) or not path:
            raise SrtError(f"{where}: {section}: must be the path of a YAML file, not {show(path)}")
        if self.raw.get(section) is not None:
            raise SrtError(f"{self.at([section])}: is given here and in {path} (files: {section}): keep one of them")
        if not (self.root / path).exists():
            folder = (self.root / path).parent
            near = nearest(Path(path).name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else ""
            raise SrtError(
                f"{where}: {section}: {path} does not exist: correct the path, which starts from the folder that "
                f"snakemake runs in{near}"
            )
        data = read_yaml(self.root / path, path)
        self.files.setdefault(section, path)
        if list(data) == [section] and isinstance(data[section], dict):
            raise SrtError(f"{path}: {section}: the file is this section: remove the line '{section}:' and the indent")
        return data

    def inherit_defaults(self, merged: dict[str, Any]) -> None:
        """Give every run the keys of `train_defaults` that it does not set itself."""
        defaults = merged.get("train_defaults", {})
        where = self.at(["train_defaults"])
        if not isinstance(defaults, dict):
            raise SrtError(f"{where}: must be a mapping of keys, not {show(defaults)}: write `key: value` lines")
        try:  # by themselves first, so that a mistake is not blamed on a run
            Train.model_validate(defaults)
        except ValidationError as error:
            raise SrtError(f"{where}: {first_problem(Train, error)}") from None
        runs = merged.get("runs")
        if not isinstance(runs, dict):
            return
        seeds = _seeds(merged.get("seeds", 1))
        merged["runs"] = {name: _with_defaults(entry, defaults, seeds) for name, entry in runs.items()}


def _with_defaults(entry: Any, defaults: dict[str, Any], seeds: list[int]) -> Any:
    if not isinstance(entry, dict):
        return entry  # refused by the model
    own = entry.get("train")
    if own is not None and not isinstance(own, dict):
        return entry
    return {"seeds": seeds, **entry, "train": {**defaults, **(own or {})}}


def _seeds(count: Any) -> list[int]:
    """1 to `seeds` of the main file; a wrong value is refused by the model, under its own key."""
    number = int(count) if isinstance(count, str) and count.isdecimal() else count
    return list(range(1, number + 1)) if type(number) is int and 0 < number <= 1000 else [1]


class _Inheritance:
    """The runs with what they take over from others by `extends`; entries that start with `_` are only for that."""

    def __init__(self, runs: Any, at: Callable[[Sequence[str]], str]) -> None:
        self.runs, self.at = runs if isinstance(runs, dict) else {}, at

    def owner(self, name: str, keys: list[str]) -> str:
        """The entry that has the value under these keys: `name`, or the nearest that it extends."""
        chain = [name]
        while isinstance(above := _look_up(self.runs, [chain[-1], "extends"]), str) and above not in chain:
            chain.append(above)
        return next((each for each in chain if keys and _look_up(self.runs, [each, *keys[:2]]) is not None), name)

    def resolved(self) -> dict[Any, Any]:
        found = {name: self.entry(name, []) for name in self.runs}
        return {name: entry for name, entry in found.items() if not (isinstance(name, str) and name.startswith("_"))}

    def entry(self, name: Any, path: list[str]) -> Any:
        own = self.runs[name]
        if not isinstance(own, dict) or own.get("extends") is None:
            return own
        other, where = own["extends"], self.at(["runs", str(name), "extends"])
        if not isinstance(other, str):
            raise SrtError(f"{where}: must be the id of an entry, not {show(other)}")
        if other not in self.runs:
            raise SrtError(f"{where}: unknown run '{other}'{nearest(other, [str(n) for n in self.runs])}")
        if other in [*path, name]:
            circle = " -> ".join([*[*path, str(name)][[*path, name].index(other) :], other])
            raise SrtError(f"{where}: the entries extend each other ({circle}): write the keys out in one of them")
        above = self.entry(other, [*path, str(name)])
        if not isinstance(above, dict):
            raise SrtError(f"{where}: '{other}' is {show(above)}: write `key: value` lines there")
        made = {**above, **{key: value for key, value in own.items() if key != "extends"}}
        if isinstance(above.get("train"), dict) and isinstance(own.get("train"), dict):
            made["train"] = {**above["train"], **own["train"]}
        return made


def _look_up(data: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(data, list) and key.startswith("item ") and int(key[5:]) <= len(data):
            data = data[int(key[5:]) - 1]
        elif isinstance(data, dict):
            data = data.get(key)
        else:
            return None
    return data


def _shown(path: Path, root: Path) -> str:
    """A path as in the working folder, else in full."""
    try:
        return str((root / path).relative_to(root))
    except ValueError:
        return str(path)
