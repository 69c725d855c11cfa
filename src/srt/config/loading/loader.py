"""Put the configuration together from its files, and name the file and keys of the first mistake."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from srt.common.errors import SrtError, nearest
from srt.common.own_code import search_folders
from srt.config.base import SECTIONS, ConfigError
from srt.config.checks import check
from srt.config.checks.own_code import check_own_code
from srt.config.explain import first_problem, show
from srt.config.loading.inheritance import Inheritance, look_up
from srt.config.loading.replacement import with_replaced_model
from srt.config.loading.yaml_file import read_yaml
from srt.config.root import Config
from srt.config.train import Train

DEFAULT = "config/config.yaml"


def load_config(
    raw: dict[str, Any],
    root: Path,
    origin: str = DEFAULT,
    configfiles: Sequence[str | Path] = (),
    home: Path | None = None,
) -> Config:
    """Read all sections of the configuration, and check it; the first mistake is a `SrtError` of one line.

    Args:
        raw: the main config (Snakemake's merged `config`); its `files` name one or more YAML files per section.
        root: the folder from which relative paths in `files` start.
        origin: the main file's name, for messages.
        configfiles: the files that Snakemake merged into `raw`. They are read again to find repeated keys, which
            Snakemake accepts, and to tell them from keys that came from `--config`.
        home: the folder of the workflow, where a file of `files` is looked up that is not below `root`.
    """
    try:
        return _Loader(raw, root, origin, configfiles, home or root).load()
    except SrtError as error:
        raise SrtError(" ".join(str(error).split())) from None


def read_resolved(path: Path) -> Config:
    """The whole configuration that a workflow wrote into its results folder (`config.json`), checked again."""
    from srt.common.io import read_json  # imports pandas, which doubles the start-up time

    config = Config.model_validate(read_json(path))
    check(config)
    return config


class _Loader:
    """One load: the merged mapping, and the file that each key came from."""

    def __init__(
        self, raw: dict[str, Any], root: Path, origin: str, configfiles: Sequence[str | Path], home: Path
    ) -> None:
        self.raw, self.root, self.origin, self.home = raw, root, origin, home
        self.files: dict[str, str] = {}  # section -> its first file, for sections in separate files
        self.file_of: dict[tuple[str, str], str] = {}  # (section, id) -> the file that has it
        self.contents: list[tuple[str, Any]] = []  # main files: name, content
        self.code_folders = search_folders(configfiles or [origin], root)
        for file in configfiles:
            self.origin = _shown(Path(file), root)
            self.contents.append((self.origin, read_yaml(root / file, self.origin)))

    def load(self) -> Config:
        # a top-level key whose lines are all commented out counts as absent
        merged = {str(k): v for k, v in self.raw.items() if k != "files" and v is not None}
        files = self.raw.get("files")
        if files is not None and not isinstance(files, dict):
            raise SrtError(
                f"{self.location(['files'])}: must be a mapping of keys, not {show(files)}: write `models: FILE` lines"
            )
        for section, path in (files or {}).items():
            merged[section] = self.section(section, path)
        inheritance = Inheritance(merged.get("runs"), self.location)
        if isinstance(merged.get("runs"), dict):
            merged["runs"] = inheritance.resolved()
        self.inherit_defaults(merged)
        try:
            config = Config.model_validate(merged)
            self.check_results(config.results)
            check(config)
            config = with_replaced_model(config, self.root)
            config.code_folders.extend(self.code_folders)
            check_own_code(config)
            return config
        except ValidationError as error:
            problem = first_problem(Config, error)
            path, message = problem.path, problem.message
        except ConfigError as error:
            path, message = error.path, error.message
        if len(path) > 1 and path[0] == "runs":  # name the entry that has the key, not one that inherits it
            unknown = message.split("'")[1:2] if message.startswith("unknown key '") else []
            path = ["runs", inheritance.owner(path[1], [*path[2:], *unknown]), *path[2:]]
        if len(path) == 1 and path[0] in SECTIONS and message.startswith("is missing"):
            message = f"is missing: write it here, or name its file under files: {path[0]}"
            message += " (evaluate needs no runs: docs/evaluate.md)" if path == ["runs"] else ""
        if not path and message.startswith("unknown key '"):
            raise SrtError(f"{self.main_file([message.split(chr(39))[1]])}: {message}")
        raise SrtError(f"{self.location(path)}: {message}")

    def check_results(self, results: str) -> None:
        """The folder of results is removed and copied as a whole, so nothing else may be in it."""
        if Path(os.path.abspath(self.root)).is_relative_to(os.path.abspath(self.root / results)):
            told = "is or holds the folder in which snakemake runs: name another, such as results/full"
            raise ConfigError(["results"], f"'{results}' {told}")

    def location(self, path: Sequence[str]) -> str:
        """File and keys, as a person would look them up."""
        if path and path[0] in self.files:
            file = self.file_of.get((path[0], path[1])) if len(path) > 1 else None
            return ": ".join([file or self.files[path[0]], *path[1:]])
        return ": ".join([self.main_file(path), *path])

    def main_file(self, path: Sequence[str]) -> str:
        """The main file that has the value under these keys, or `--config` if none has."""
        keys = list(path)
        while keys and look_up(self.raw, keys) is None:
            keys.pop()
        value = look_up(self.raw, keys)
        holders = [name for name, data in self.contents if look_up(data, keys) == value]
        if not self.contents or not keys:
            return self.origin
        return holders[-1] if holders else "--config"

    def section(self, section: str, paths: Any) -> Any:
        """The entries of a section that is in separate files."""
        where = self.location(["files"])
        if section not in SECTIONS:
            raise SrtError(f"{where}: unknown section '{section}'{nearest(str(section), SECTIONS)}")
        merged: dict[str, Any] = {}
        if paths == []:
            raise SrtError(f"{where}: {section}: is empty: give the path of a YAML file, or remove the key")
        for path in paths if isinstance(paths, list) else [paths]:
            for key, entry in self.file(section, path, where).items():
                other = self.file_of.get((section, str(key)))
                if other is not None:
                    raise SrtError(f"{path}: id '{key}' is also in {other}: rename or remove one")
                self.file_of[section, str(key)] = path
                merged[key] = entry
        return merged

    def file(self, section: str, path: Any, where: str) -> dict[str, Any]:
        """The mapping in one file of a section."""
        if not isinstance(path, str) or not path:
            raise SrtError(f"{where}: {section}: must be the path of a YAML file, not {show(path)}")
        if self.raw.get(section) is not None:
            raise SrtError(
                f"{self.location([section])}: is given here and in {path} (files: {section}): keep one of them"
            )
        place = next((folder / path for folder in (self.root, self.home) if (folder / path).exists()), None)
        if place is None:
            folder = (self.root / path).parent
            near = nearest(Path(path).name, [p.name for p in folder.glob("[!.]*.y*ml")]) if folder.is_dir() else ""
            raise SrtError(
                f"{where}: {section}: {path} does not exist: correct the path, which starts from the folder in which "
                f"snakemake runs{near}"
            )
        data = read_yaml(place, path)
        self.files.setdefault(section, path)
        if list(data) == [section] and isinstance(data[section], dict):
            raise SrtError(f"{path}: {section}: the file is this section: remove the line '{section}:' and the indent")
        return data

    def inherit_defaults(self, merged: dict[str, Any]) -> None:
        """Give every run the keys of `train_defaults` that it does not set."""
        defaults = merged.get("train_defaults", {})
        where = self.location(["train_defaults"])
        if not isinstance(defaults, dict):
            raise SrtError(f"{where}: must be a mapping of keys, not {show(defaults)}: write `key: value` lines")
        try:  # by themselves first, so that a mistake in them is not reported for a run
            parsed = Train.model_validate(defaults).model_dump(mode="json")
        except ValidationError as error:
            raise SrtError(f"{where}: {first_problem(Train, error)}") from None
        # as numbers, so that "1e-4" and 0.0001 are one configuration
        merged["train_defaults"] = defaults = {key: parsed[key] for key in defaults}
        runs = merged.get("runs")
        if not isinstance(runs, dict):
            return
        seeds = _seeds(merged.get("seeds", 1))
        merged["runs"] = {name: _with_defaults(entry, defaults, seeds) for name, entry in runs.items()}


def _with_defaults(entry: Any, defaults: dict[str, Any], seeds: list[int]) -> Any:
    if not isinstance(entry, dict):
        return entry  # the model refuses it
    own = entry.get("train")
    if own is not None and not isinstance(own, dict):
        return entry
    return {"seeds": seeds, **entry, "train": {**defaults, **(own or {})}}


def _seeds(count: Any) -> list[int]:
    """The seeds 1 to `seeds` of the main file; the model refuses a wrong value under its own key."""
    number = int(count) if isinstance(count, str) and count.isdecimal() else count
    return list(range(1, number + 1)) if type(number) is int and 0 < number <= 1000 else [1]


def _shown(path: Path, root: Path) -> str:
    """A path relative to the root if it is below it, otherwise in full."""
    try:
        return str((root / path).relative_to(root))
    except ValueError:
        return str(path)
