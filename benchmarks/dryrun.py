"""Time of `snakemake --profile slurm -n --quiet host`, the plan of the full matrix, as a ratio to a plain workflow.

    .venv/bin/python benchmarks/dryrun.py             about three minutes on an idle machine

The plain workflow has the same rules, files and jobs, written as Snakemake's tutorial would (plain_workflow.py), with
Snakemake's defaults; ours also checks the configuration and compares results with their records. The two take turns in
fresh folders without results. Writes benchmarks/results/dryrun.json: jobs, seconds and CPU seconds of each round, their
ratio (ours over plain), versions. Ends with an error if a dry-run fails or if the two plan different numbers of jobs.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "src")]

import yaml  # noqa: E402
from measure import RESULTS, machine  # noqa: E402
from plain_workflow import write  # noqa: E402
from smoke import copy_tree  # noqa: E402

from srt.config.loading.loader import load_config  # noqa: E402
from srt.plan.jobs import build  # noqa: E402

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
    parser.add_argument("--rounds", type=int, default=3, help="dry-runs of each workflow")
    parser.add_argument("--profile", default="slurm", help="a profile of the repository; slurm plans the full matrix")
    parser.add_argument("--config", default="config/config.yaml", help="that profile's configuration")
    parser.add_argument("--out", type=Path, default=RESULTS / "dryrun.json")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder, "ours"), Path(folder, "plain")
        copy_tree(ours)
        plain.mkdir()
        config = load_config(yaml.safe_load((ROOT / args.config).read_text(encoding="utf-8")), ROOT)
        write(build(config), config.results, plain)
        listing = ["-n", "--quiet", "host"]  # each job, where the profile of ours would show a summary
        profiles = {"ours": (ours, args.profile), "plain": (plain, "profile")}
        sides = {name: (where, ["--profile", profile, *listing]) for name, (where, profile) in profiles.items()}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, (where, arguments) in sides.items():
                runs[name].append(dry_run(where, arguments))
    jobs = {int(run["jobs"]) for side in runs.values() for run in side}
    if len(jobs) > 1:
        sys.exit(f"the workflows planned {sorted(jobs)} jobs: plain_workflow.py does not have the rules of ours")
    found = machine(1, "cpu")
    clocks = ("wall_s", "cpu_s")
    ratio = {c: median(a[c] / b[c] for a, b in zip(runs["ours"], runs["plain"], strict=True)) for c in clocks}
    result = {
        "command": f"snakemake --profile {args.profile} -n --quiet host",
        "jobs": jobs.pop(),
        "ratio": {clock: round(value, 3) for clock, value in ratio.items()},
        **{
            name: {
                clock: {"median": round(median(r[clock] for r in of), 2), "rounds": [round(r[clock], 2) for r in of]}
                for clock in clocks
            }
            for name, of in runs.items()
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
