"""Time of `snakemake --profile slurm -n`, the plan of the full matrix, in fresh copies of the tree without results.

    .venv/bin/python benchmarks/dryrun.py             about a minute and a half on an idle machine

A round is a new copy: cold is its first dry-run (no bytecode, no `.snakemake`), warm its second. Writes
benchmarks/results/dryrun.json: jobs, seconds (all rounds and their median), CPU seconds, peak memory, versions. Ends
with an error if a dry-run fails or if rounds differ in their number of jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from measure import RESULTS, machine
from smoke import copy_tree

PACKAGES = ("snakemake", "snakemake-executor-plugin-slurm", "pydantic")


def dry_run(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Jobs, wall and CPU seconds of one dry-run in `folder`."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "snakemake", *arguments]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    total = re.search(r"^total +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    if run.returncode or not total:
        sys.exit(f"the dry-run failed: {(run.stdout + run.stderr)[-2000:]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"jobs": int(total[1]), "wall_s": wall, "cpu_s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="fresh copies; each has a cold and a warm dry-run")
    parser.add_argument("--profile", default="slurm", help="a profile of the repository; slurm plans the full matrix")
    parser.add_argument("--out", type=Path, default=RESULTS / "dryrun.json")
    args = parser.parse_args()
    arguments = ["--profile", args.profile, "-n"]
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    load = os.getloadavg()[0]
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            copy_tree(Path(folder))
            for kind in runs:
                runs[kind].append(dry_run(Path(folder), arguments))
    jobs = {int(run["jobs"]) for kind in runs.values() for run in kind}
    if len(jobs) > 1:
        sys.exit(f"dry-runs of one tree planned {sorted(jobs)} jobs: they must be the same")
    found = machine(1, "cpu")
    result = {
        "command": f"snakemake {' '.join(arguments)}",
        "jobs": jobs.pop(),
        **{
            kind: {
                clock: {"median": round(median(r[clock] for r in of), 2), "rounds": [round(r[clock], 2) for r in of]}
                for clock in ("wall_s", "cpu_s")
            }
            for kind, of in runs.items()
        },
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "machine": {key: found[key] for key in ("cpu", "cores", "python")}
        | {"load_before": round(load, 2), "versions": {package: version(package) for package in PACKAGES}},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
