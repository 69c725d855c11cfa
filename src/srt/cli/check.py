"""Look for problems that would stop a configuration, in seconds and without starting a job.

Compares Python and the installed packages with pyproject.toml and constraints.txt. Checks that the configuration's data
files and model folders can be read and its results folder can be written. Data and models from the Hugging Face hub are
not checked. The exit code is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from srt.cli.shared import add_configfile, configuration

if TYPE_CHECKING:
    from srt.config import Config

CONSTRAINTS = Path("constraints.txt")


@dataclass(frozen=True)
class Finding:
    """One line of the result: what was looked at, whether it is as it should be, and what was found."""

    topic: str
    good: bool
    text: str


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line per finding; 1 if one is bad."""
    config = configuration(args)
    bad = 0
    for finding in (*python(), *packages(), *data(config), *models(config), *results(config)):
        print(f"{'ok' if finding.good else 'ERROR':<6} {finding.topic:<9} {finding.text}")
        bad += not finding.good
    return int(bad > 0)


def python() -> Iterator[Finding]:
    """The version of Python."""
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    needed = _project()["requires-python"]
    yield Finding("python", SpecifierSet(needed).contains(version), f"{version} ({needed} is needed)")


def packages() -> Iterator[Finding]:
    """Whether the needed packages are there, and every installed one that has a pin has that version."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if name}
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    for text in _project()["dependencies"]:
        if canonicalize_name(name := Requirement(text).name) not in installed:
            yield Finding("packages", False, f"{name} is not installed: run make setup")
    pinned = {name: version for name, version in installed.items() if name in pins}
    # a build of torch adds a local version, such as 2.13.0+cpu
    other = {name: version for name, version in pinned.items() if version.partition("+")[0] != pins[name]}
    for name, version in sorted(other.items()):
        yield Finding("packages", False, f"{name} is {version}, {CONSTRAINTS} pins {pins[name]}: run make setup")
    if not other:
        yield Finding("packages", True, f"{len(pinned)} have the versions of {CONSTRAINTS}")


def data(config: Config) -> Iterator[Finding]:
    """Whether the files of local data sets can be read, unless the tables are made from them already."""
    from srt.artefacts.paths import Paths
    from srt.config.datasets import LocalDataset

    local = {name: entry for name, entry in config.datasets.items() if isinstance(entry, LocalDataset)}
    bad = 0
    for name, entry in local.items():
        file = entry.file(config.local_dir)
        if not Path(Paths(config.results).problems(name)).is_file() and (why := _unreadable(file)):
            bad += 1
            yield Finding("data", False, f"{name}: {file} {why}: put it there, or set local_dir")
    if not bad:
        yield Finding("data", True, f"{len(local)} local data sets are there or made")


def models(config: Config) -> Iterator[Finding]:
    """Whether local model folders and packages with weights are there, unless the models are made from them already."""
    from srt.artefacts.paths import Paths
    from srt.config.models import GgufModel, LocalModel

    kept = {name: entry for name, entry in config.models.items() if isinstance(entry, LocalModel | GgufModel)}
    bad = 0
    for name, entry in kept.items():
        if Path(Paths(config.results).base_model(name)).is_dir():
            continue
        if isinstance(entry, GgufModel):
            why = "" if importlib.util.find_spec(entry.package) else f"package {entry.package} is not installed"
        else:
            file = Path(entry.path, "config.json")
            why = f"{file} {_unreadable(file)}" if _unreadable(file) else ""
            if not why and not any(Path(entry.path).glob("*.safetensors")):
                why = f"{entry.path} holds no .safetensors"
        if why:
            bad += 1
            yield Finding("models", False, f"{name}: {why}")
    if not bad:
        yield Finding("models", True, f"{len(kept)} local models are there or made")


def results(config: Config) -> Iterator[Finding]:
    """Whether a file can be written to the results folder, or to the nearest folder above it that exists."""
    folder = Path(config.results).absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            yield Finding("results", True, f"{config.results} can be written")
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        yield Finding("results", False, f"{config.results}: {place} cannot be written ({why}): change the key results")


def _project() -> dict:
    return tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def _unreadable(file: Path) -> str:
    """Why a file cannot be read, as the end of a sentence; "" if it can."""
    try:
        with open(file, "rb"):
            return ""
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno) if error.errno else error})"
