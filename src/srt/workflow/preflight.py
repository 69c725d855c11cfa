"""What would stop a run after hours, looked at in seconds before the first job: inputs, results folder, hub, machine.

Each check yields findings. `srt check` prints all of them for a whole configuration. A dry-run names inputs of planned
jobs that are missing, and a real run refuses to start without them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from srt.artefacts.paths import Paths
from srt.cluster.partitions import ClusterLimits
from srt.common.errors import SrtError
from srt.common.io import read_json
from srt.config import Config
from srt.config.datasets import HubDataset, LocalDataset
from srt.config.models import GgufModel, HubModel, LocalModel
from srt.data.hub import mirror_folder

CONSTRAINTS = "constraints.txt"
WARNINGS = 10  # lines of `warn`
TOOL_SECONDS = 10.0  # after which nvidia-smi or sinfo counts as not answering


@dataclass(frozen=True)
class Finding:
    """One line of the result: what was checked, whether the check passed, and what was found."""

    topic: str
    good: bool
    text: str


def unmade(config: Config) -> tuple[set[str], set[str]]:
    """The data sets and the models that the results folder does not hold yet."""
    paths = Paths(config.results)
    return (
        {name for name in config.datasets if not Path(paths.problems(name)).is_file()},
        {name for name in config.models if not Path(paths.base_model(name)).is_dir()},
    )


def data(config: Config, names: Collection[str]) -> Iterator[Finding]:
    """Whether the files of these data sets, as far as they are local, can be read."""
    bad = 0
    for name in sorted(names):
        entry = config.datasets[name]
        if isinstance(entry, LocalDataset) and (why := _unreadable(file := entry.file(config.local_dir))):
            bad += 1
            yield Finding("data", False, f"{name}: {file} {why}: put it there, or set local_dir")
    if not bad:
        yield Finding("data", True, "all local data sets are there or made")


def models(config: Config, names: Collection[str]) -> Iterator[Finding]:
    """Whether the folders and the packages with the weights of these models, as far as they are local, are there."""
    bad = 0
    for name in sorted(names):
        entry, why = config.models[name], ""
        if isinstance(entry, GgufModel):
            if importlib.util.find_spec(entry.package) is None:
                why = f"package {entry.package} is not installed: install it"
        elif isinstance(entry, LocalModel):
            file = Path(entry.path, "config.json")
            why = f"{file} {reason}: correct its path" if (reason := _unreadable(file)) else ""
            if not why and not any(Path(entry.path).glob("*.safetensors")):
                why = f"{entry.path} holds no .safetensors: correct its path"
        if why:
            bad += 1
            yield Finding("models", False, f"{name}: {why}")
    if not bad:
        yield Finding("models", True, "all local models are there or made")


def hub(config: Config, datasets: Collection[str], models: Collection[str]) -> Iterator[Finding]:
    """Whether the repositories of these data sets and models are in the cache, or may be downloaded with the token."""
    wanted: list[tuple[str, str, HubModel | HubDataset]] = []
    for name in sorted(models):
        if isinstance(model := config.models[name], HubModel):
            wanted.append(("model", name, model))
    for name in sorted(datasets):
        entry = config.datasets[name]
        if isinstance(entry, HubDataset):
            mirror = mirror_folder(entry, Path(config.local_dir) if config.local_dir else None)
            if mirror is None or not mirror.is_dir():
                wanted.append(("dataset", name, entry))
    if not wanted:
        return
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda one: _ask_hub(one[0], one[2]), wanted))
    names: dict[tuple[bool, str], list[str]] = {}
    for (_, name, entry), answer in zip(wanted, answers, strict=True):
        names.setdefault(answer, []).append(f"{name} ({entry.repo})")
    for (good, text), alike in names.items():
        yield Finding("hub", good, f"{text}: {', '.join(alike)}")


def _ask_hub(kind: str, entry: HubModel | HubDataset) -> tuple[bool, str]:
    """Whether nothing speaks against a download, and what was found."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        snapshot_download(entry.repo, repo_type=kind, revision=entry.revision, local_files_only=True)
        return True, "in the cache"
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            return False, "not in the cache while HF_HUB_OFFLINE is set, so unset it or fill the cache"
    try:
        HfApi().auth_check(entry.repo, repo_type=kind)
        return True, "not in the cache, can be downloaded"
    except GatedRepoError:
        return False, "gated, so accept the terms on the hub and set HF_TOKEN"
    except RepositoryNotFoundError:
        return False, "not on the hub, or private, so correct `repo` or set HF_TOKEN"
    except Exception as error:  # of the HTTP client, which differs between versions of huggingface_hub
        return True, f"not in the cache, and the hub does not answer ({type(error).__name__})"


def results(config: Config) -> Finding:
    """Whether the results folder, or the nearest folder above it, can be written and has no results of another `model`.

    Its ids are the same, so all results of the other model would be made again in their place.
    """
    if (other := _other_model(config)) is not None:
        text = f"{config.results} has results of {other}, not of {_called(config.model)}"
        return Finding("results", False, f"{text}: name another folder with --config results=FOLDER")
    place = _place(config)
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding("results", True, f"{config.results} can be written")
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        return Finding("results", False, f"{config.results}: {place} cannot be written ({why}): change the key results")


def _other_model(config: Config) -> str | None:
    """The model of the last start in the results folder, if it made any and key `model` was not as it is now."""
    paths = Paths(config.results)
    if not any(Path(paths.base_model(name)).is_dir() for name in config.models):
        return None
    last = Path(paths.config())
    model = read_json(last).get("model") if last.is_file() else None
    return None if model == config.model else _called(model)


def _called(model: str | None) -> str:
    return "the configuration's own model" if model is None else model


def space(config: Config, needed: float) -> Finding:
    """Whether the disk of the results folder has `needed` bytes free."""
    free = shutil.disk_usage(_place(config)).free
    text = f"about {needed / 1e9:,.1f} GB more are needed for everything, {free / 1e9:,.1f} GB are free"
    fix = "" if free >= needed else ": free space, or change the key results"
    return Finding("space", free >= needed, text + fix)


def gpus(asked: int) -> Finding:
    """Whether this machine has the GPUs that the largest job asks for."""
    if not asked:
        return Finding("gpus", True, "no job asks for a GPU")
    found = _output("nvidia-smi", "--list-gpus")
    here = sum(line.startswith("GPU ") for line in (found or "").splitlines())
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        here = min(here, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))
    fix = "" if here >= asked else ": use a machine that has them, or --profile slurm"
    return Finding("gpus", here >= asked, f"jobs ask for up to {asked}, this machine has {here}{fix}")


def partitions(limits: ClusterLimits, asked: int) -> Iterator[Finding]:
    """Whether SLURM has the partitions of partitions.yaml, and one of them the GPUs that the largest job asks for."""
    answer = slurm_partitions()
    if answer is None:
        yield Finding("slurm", False, "sinfo does not answer: load SLURM's commands, or run where they are")
        return
    missing = sorted(set(limits.partitions) - answer)
    if missing:
        has = ", ".join(sorted(answer))
        yield Finding("slurm", False, f"no partition {', '.join(missing)} (SLURM has {has}): correct partitions.yaml")
    on_node = -(-asked // limits.nodes(asked))
    if limits.partitions and max(partition.gpus for partition in limits.partitions.values()) < on_node:
        yield Finding("slurm", False, f"no partition of partitions.yaml has max_gpu {on_node} or more: correct it")
    elif not missing:
        yield Finding("slurm", True, f"{len(limits.partitions)} partitions are there, jobs ask for up to {asked} GPUs")


def slurm_partitions() -> set[str] | None:
    """The names of SLURM's partitions; None if SLURM is missing or does not answer."""
    answer = _output("sinfo", "--noheader", "--format=%R")
    return None if answer is None else set(answer.split())


def versions(root: Path) -> Iterator[Finding]:
    """Whether Python and the needed packages are there, and every installed package with a pin has that version."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python, needed = ".".join(map(str, sys.version_info[:3])), project["requires-python"]
    yield Finding("python", SpecifierSet(needed).contains(python), f"{python} ({needed} is needed)")
    lines = (line.partition("#")[0].strip() for line in (root / CONSTRAINTS).read_text(encoding="utf-8").splitlines())
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if name}
    found_first = reversed(list(metadata.distributions()))  # setuptools appends a folder of old copies to sys.path
    installed = {canonicalize_name(found.name): found.version for found in found_first}
    for text in project["dependencies"]:
        if canonicalize_name(name := Requirement(text).name) not in installed:
            yield Finding("packages", False, f"{name} is not installed: run make setup")
    pinned = {name: version for name, version in installed.items() if name in pins}
    # a build of torch adds a local version, such as 2.13.0+cpu
    other = {name: version for name, version in pinned.items() if version.partition("+")[0] != pins[name]}
    for name, version in sorted(other.items()):
        yield Finding("packages", False, f"{name} is {version}, {CONSTRAINTS} pins {pins[name]}: run make setup")
    if not other:
        yield Finding("packages", True, f"{len(pinned)} have the versions of {CONSTRAINTS}")


def refuse(findings: list[Finding]) -> None:
    """Raise an SrtError with the first problem among the findings, and the number of others; print the rest as a line.

    Raises:
        SrtError: a finding is not good.
    """
    bad = [f"{finding.topic}: {finding.text}" for finding in findings if not finding.good]
    if bad:
        more = f" (and {len(bad) - 1} more: srt check lists them)" if len(bad) > 1 else ""
        raise SrtError(f"{bad[0]}{more}")
    print(f"checked: {'; '.join(finding.text for finding in findings)}", file=sys.stderr)


def warn(findings: list[Finding]) -> None:
    """Print a warning for each finding that is not good, for ten at most."""
    bad = [f"warning: {finding.topic}: {finding.text}" for finding in findings if not finding.good]
    if len(bad) > WARNINGS:
        bad[WARNINGS - 1 :] = [f"warning: {len(bad) - WARNINGS + 1} more: srt check lists them"]
    for line in bad:
        print(line, file=sys.stderr)


def _place(config: Config) -> Path:
    """The results folder, or the nearest folder above it that exists."""
    folder = Path(config.results).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _output(*command: str) -> str | None:
    """What a program prints; None if the program is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def _unreadable(file: Path) -> str:
    """Why a file cannot be read, as the end of a sentence; "" if it can."""
    try:
        with open(file, "rb"):
            return ""
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno) if error.errno else error})"
