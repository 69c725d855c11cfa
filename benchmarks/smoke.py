"""Wall time, CPU time and peak memory of the whole smoke DAG, run from nothing in a copy of the tree.

Memory is the sum of the proportional set sizes (PSS) of all processes of the run, sampled four times per second. Writes
benchmarks/results/smoke.json and prints it. What is timed begins after the set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def copy_tree(target: Path) -> None:
    """Tracked and new files, as a clone would hold them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def memory(process: psutil.Process) -> int:
    """Bytes of PSS of a process and all below it."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has just ended
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/smoke.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        profile = ["--profile", "workflow/profiles/smoke", "--cores", str(args.cores)]
        command = [sys.executable, "-m", "snakemake", *profile]
        before, began = os.times(), time.monotonic()
        run = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process, peak = psutil.Process(run.pid), 0
        while run.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.25)
        wall, after = time.monotonic() - began, os.times()
        if run.returncode:
            sys.exit(f"the smoke run failed: run {' '.join(command[1:])} by hand")
        jobs = len(list(Path(folder).glob("results/smoke/benchmarks/**/*.tsv")))
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    result = {
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_pss_mib": round(peak / 2**20),
        "jobs": jobs,
        "cores": args.cores,
        "load_before": round(os.getloadavg()[2], 2),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
