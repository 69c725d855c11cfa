"""Snakemake in a copy of the tree: the micro DAG, what a dry-run plans, what a run made."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from support import ROOT, warm

MICRO = ["--profile", "workflow/profiles/local", "--configfile", "tests/micro/config.yaml", "--cores", "2"]


def copy_of_the_tree(target: Path) -> Path:
    """Copy what a clone would hold: tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, place = ROOT / name, target / name
        if source.is_symlink() or source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
    return target


def snakemake(folder: Path, *args: str, code: int = 0) -> str:
    """Run Snakemake in `folder` and return all that it printed."""
    done = warm.run(["-m", "snakemake", *args], cwd=folder, timeout=1000)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


def jobs(output: str) -> dict[str, int]:
    """The table of jobs that a dry-run prints: rule -> number."""
    table = output.split("Job stats:")[-1]
    return (
        {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", table, re.MULTILINE)} if "Job stats:" in output else {}
    )


def results(folder: Path) -> dict[str, bytes]:
    """Every result that must be the same in two clones: tables, figures, metrics, raw samples, weights."""
    root = folder / "results" / "micro"
    kinds = ("tables/*.csv", "figures/*", "runs/*/metrics.*", "eval/**/*.parquet", "**/model.safetensors",
             "labels/**/*.parquet", "curriculum/**/*.parquet", "data/*")  # fmt: skip
    return {str(p.relative_to(root)): p.read_bytes() for kind in kinds for p in sorted(root.glob(kind)) if p.is_file()}


def trained(output: str) -> set[str]:
    return set(re.findall(r"Job \d+: Train (\S+)/step-", output))
