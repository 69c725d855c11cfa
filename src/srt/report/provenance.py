"""What the results were made from: versions, code, configuration, models, data and runs, as one long table.

Columns: section, name, item, value. Rows of `data`, `models`, `runs` and `configuration` depend on the configuration
and the results only. Those of `software` and `code` depend on the machine and the checkout, so two tables may differ in
them. The table names no user, host or time.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from srt.common import io
from srt.common.errors import SrtError

SPEC = ("config", "models", "data", "runs")
COLUMNS = ("section", "name", "item", "value")
PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "deepspeed", "vllm", "flash-attn", "datasets",
    "huggingface_hub", "math-verify", "reasoning_gym", "numpy", "pandas", "pyarrow", "matplotlib", "pydantic",
    "snakemake", "snakemake-executor-plugin-slurm",
)  # fmt: skip
PIN_FILES = ("constraints*.txt", "envs/*.yaml")
Rows = list[tuple[str, str, str, str]]


def provenance(spec: Mapping[str, Any], root: Path) -> pd.DataFrame:
    """The table of a spec.

    `spec`: config (SHA-256 of the resolved configuration), models {id: folder}, data {id: manifest}, runs {id:
    {"metrics": file, "last": groups file of the last step}}. `root` is the repository: code and pins.
    """
    rows: Rows = [("configuration", "resolved", "sha256", str(spec["config"]))]
    for part in (software(), code(root), models(spec["models"]), data(spec["data"]), runs(spec["runs"])):
        rows += part
    return pd.DataFrame(rows, columns=list(COLUMNS))


def software() -> Rows:
    """Python, the packages that results depend on, and one hash of all packages in this environment."""
    rows: Rows = [("software", "python", "version", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append(("software", name, "version", metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append(("software", name, "version", "not installed"))
    installed = sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in metadata.distributions() if d.metadata})
    digest = io.sha256_bytes("\n".join(installed).encode())
    return [*rows, ("software", "all packages", "sha256", digest), ("software", "system", "kind", platform.system())]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def code(root: Path) -> Rows:
    """The commit, the number of files changed since, and hashes of the source files and of the pinned versions."""
    commit = _git(root, "rev-parse", "HEAD")
    rows: Rows = [("code", "repository", "commit", commit or "unknown: not a git checkout")]
    if commit:
        changed = _git(root, "status", "--porcelain", "--", "src", "scripts", "rules", "Snakefile") or ""
        rows.append(("code", "repository", "changed files", str(len(changed.splitlines()))))
    sources = sorted(
        path
        for pattern in ("src/srt/**/*", "scripts/*.py", "rules/*.smk", "Snakefile")
        for path in root.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    )
    digest = "\n".join(f"{path.relative_to(root).as_posix()} {io.sha256_file(path)}" for path in sources)
    rows.append(("code", "sources", "sha256", io.sha256_bytes(digest.encode())))
    pins = sorted(path for pattern in PIN_FILES for path in root.glob(pattern))
    return [*rows, *(("code", path.relative_to(root).as_posix(), "sha256", io.sha256_file(path)) for path in pins)]


def models(folders: Mapping[str, str]) -> Rows:
    """Source, revision and fingerprint of each base model, from the `srt.json` in its folder."""
    rows: Rows = []
    for name, folder in folders.items():
        about = io.read_json(Path(folder) / "srt.json")
        source = about.get("source", {})
        for item in ("source", "repo", "revision", "unpinned", "path"):
            if source.get(item):
                rows.append(("models", name, item, str(source[item])))
        rows += [("models", name, item, str(about[item])) for item in ("commit", "fingerprint") if about.get(item)]
        rows.append(("models", name, "entry", io.spec_hash(source)))
    return rows


def data(manifests: Mapping[str, str]) -> Rows:
    """Source, revision, commit, rows and fingerprint of each data set, from its manifest."""
    rows: Rows = []
    for name, path in manifests.items():
        about = io.read_json(path)
        missing = [key for key in ("spec", "rows", "fingerprint", "versions") if key not in about]
        if missing:
            raise SrtError(f"{path} lacks '{missing[0]}': it is not a data set's manifest; make the data set again")
        spec = about["spec"]
        where = spec.get("repo") or spec.get("path") or spec.get("name")
        rows.append(("data", name, "source", f"{spec['source']}: {where}"))
        rows += [("data", name, item, str(spec[item])) for item in ("revision", "unpinned", "seed") if item in spec]
        rows += [("data", name, "commit", about["commit"])] if about.get("commit") else []
        rows += [("data", name, "rows", str(about["rows"])), ("data", name, "fingerprint", about["fingerprint"])]
        if about.get("input_sha256"):
            rows.append(("data", name, "sha256 of the file", about["input_sha256"]))
        made = ", ".join(f"{package} {version}" for package, version in sorted(about["versions"].items()))
        rows.append(("data", name, "made with", made))
    return rows


def runs(files: Mapping[str, Mapping[str, str]]) -> Rows:
    """For each run its spec hash and seed, and the checkpoint and data fingerprints of its last evaluation."""
    rows: Rows = []
    for name, paths in files.items():
        about, last = io.parquet_metadata(paths["metrics"]), io.parquet_metadata(paths["last"])
        if "spec" not in about:
            raise SrtError(f"{paths['metrics']} has no spec in its metadata: collect the run's metrics again")
        spec = about["spec"]
        rows += [
            ("runs", name, "spec", io.spec_hash(spec)),
            ("runs", name, "seed", str(spec["seed"])),
            ("runs", name, "base model", str(spec["model"])),
            ("runs", name, "training set", str(spec["data"])),
            ("runs", name, "reward", str(spec["reward"])),
        ]
        for item in ("init", "teacher"):
            if spec.get(item):
                rows.append(("runs", name, item, str(spec[item])))
        if last.get("checkpoint"):
            rows.append(("runs", name, "last checkpoint", last["checkpoint"]))
        if "spec" in last:
            rows += [("runs", name, "sampling spec", io.spec_hash(last["spec"]))]
            rows += [("runs", name, "sampling seed", str(last["spec"].get("seed", "")))]
        rows += [("runs", name, f"evaluated on {dataset}", mark) for dataset, mark in last.get("data", {}).items()]
    return rows


# Keys that change no result: where files lie, what jobs may use and save on their way, what the plan assumes.
_SPARED = {"results", "local_dir", "save_every", "keep_states", "keep_models", "max_gpu_hours", "max_disk_gb", "plan"}
_SPARED_BELOW = {
    "models": {"parameters", "gpus_train", "gpus_sample", "train_job", "sample_job"},
    "runs": {"gpus", "job", "reference_offload", "engine_sleep", "rollout_tensor_parallel"},
}


def resolved_hash(configuration: Any) -> str:
    """SHA-256 of the canonical JSON of the resolved configuration, without the keys that change no result."""
    kept = {key: value for key, value in configuration.items() if key not in _SPARED}
    if "scoring" in kept:
        kept["scoring"] = _without(kept["scoring"], {"timeout_s", "memory_mb", "workers"})
    for section, spared in _SPARED_BELOW.items():
        if section in kept:
            kept[section] = {name: _without(entry, spared) for name, entry in kept[section].items()}
    for part in (kept, *kept.get("runs", {}).values()):  # in both the hyperparameters of runs
        for key in {"train_defaults", "train"} & part.keys():
            part[key] = _without(part[key], {"trackers"})
    return io.sha256_bytes(io.canonical_json(kept).encode())


def _without(entry: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}
