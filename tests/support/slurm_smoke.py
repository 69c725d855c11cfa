"""The whole smoke DAG through a real SLURM, with the profile that users have: for a test and for a benchmark.

`compare` runs it twice, here and through a cluster whose training jobs ask for 8 GPUs and whose sampling jobs ask for
1, and returns what SLURM's own records and the files of both say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from support.dag import copy_of_the_tree
from support.slurm_cluster import Cluster

RESULTS = "results/smoke"
# Not results: records of one run (times, hosts, attempts, versions), and the configuration, which names the GPUs.
RECORDS = ("logs/", "benchmarks/", "progress/", "provenance/", "costs/", ".lock", "config.json")
PROBES = ".probe.json"  # which probes of a model a job found done depends on the order of the jobs
LOCAL = ["--profile", "workflow/profiles/smoke", "--cores", "2"]
SLURM = ["--profile", "slurm", "--configfile", "config/smoke.yaml"]
# Poll SLURM sooner than after 40 s; nothing else differs from the profile.
FAST = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]


def snakemake(folder: Path, *args: str, env: dict[str, str] | None = None) -> float:
    """Run Snakemake in `folder` and return its seconds. A failure raises with all that it printed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *args], cwd=folder, env=env, capture_output=True, text=True, timeout=3000
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return round(time.monotonic() - began, 1)


def with_gpus(folder: Path) -> Path:
    """The same tree with models that request 8 GPUs to train and 1 to sample, which changes no result."""
    path = folder / "config/smoke/models.yaml"
    models = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({k: {**m, "gpus_train": 8, "gpus_sample": 1} for k, m in models.items()}), "utf-8")
    return folder


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and size of every result file, by its path below the results folder."""
    root = folder / RESULTS
    files = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
    return {
        name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for name, path in files.items()
        if not name.startswith(RECORDS) and not name.endswith(PROBES)
    }


def rule(job: dict[str, str]) -> str:
    """The rule of a job: the plugin's comment without its wildcards."""
    return job["Comment"].removeprefix("rule_").partition("_wildcards")[0]


def slurm_jobs(cluster: Cluster) -> list[dict[str, str]]:
    """SLURM's record of each job of a workflow."""
    shown = cluster.call("scontrol", "show", "job", "-o", check=True).splitlines()
    return [j for j in (dict(re.findall(r"(\S+?)=(\S*)", x)) for x in shown) if j["JobName"].startswith("srt-")]


def overlaps(jobs: Iterable[dict[str, str]]) -> int:
    """Pairs of jobs that shared a node at some time (in whole seconds, SLURM's resolution)."""
    return sum(
        a["NodeList"] == b["NodeList"] and a["StartTime"] < b["EndTime"] and b["StartTime"] < a["EndTime"]
        for a, b in combinations(jobs, 2)
    )


def most_at_once(jobs: Iterable[dict[str, str]]) -> int:
    """The largest number of these jobs that ran at the same time."""
    moments = sorted((j[key], 1 if key == "StartTime" else -1) for j in jobs for key in ("EndTime", "StartTime"))
    running = most = 0
    for _, change in moments:  # in the same second, ends come before starts
        running += change
        most = max(most, running)
    return most


def group(jobs: list[dict[str, str]]) -> dict[str, Any]:
    """SLURM's records of the jobs of one kind, summed up."""
    waits = [
        (datetime.fromisoformat(j["StartTime"]) - datetime.fromisoformat(j["SubmitTime"])).total_seconds() for j in jobs
    ]
    return {
        "jobs": len(jobs),
        "asked_for": sorted({j.get("TresPerJob", "no GPU").removeprefix("gres:") for j in jobs}),
        "partitions": sorted({j["Partition"] for j in jobs}),
        "nodes": len({j["NodeList"] for j in jobs}),
        "most_at_once": most_at_once(jobs),
        "pairs_at_once_on_one_node": overlaps(jobs),
        "waited_for_a_node": sum(w >= 3 for w in waits),
        "longest_wait_s": round(max(waits)),
    }


def count_calls(cluster: Cluster) -> Path:
    """Log each SLURM command of the login node, not those of jobs, to the returned file."""
    log = cluster.folder / "log" / "calls"
    for name in ("squeue", "sacct", "sbatch", "scancel", "scontrol", "sinfo"):
        wrapper = cluster.folder / "bin" / name
        line = f'[ -n "$SLURM_JOB_ID" ] || echo "$(date +%s.%N) {name}" >> {log}'
        wrapper.write_text(f'#!/bin/sh\n{line}\nexec {shutil.which(name)} "$@"\n')
        wrapper.chmod(0o755)
    return log


def login_load(cluster: Cluster, place: Path) -> dict[str, Any]:
    """SLURM commands that the controller of the micro DAG runs with the profile's own polling intervals."""
    folder, calls = copy_of_the_tree(place / "load"), count_calls(cluster)
    (cluster.folder / "python" / "sitecustomize.py").unlink()
    seconds = snakemake(folder, "--profile", "slurm", "--configfile", "tests/cluster/config.yaml", env=cluster.env)
    lines = [line.split() for line in calls.read_text().splitlines()]
    asked = [float(when) for when, name in lines if name == "squeue"]
    return {
        "slurm_jobs": len(slurm_jobs(cluster)),
        "wall_s": seconds,
        "calls": dict(sorted(Counter(name for _, name in lines).items())),
        "squeue_a_minute": round(60 * len(asked) / seconds, 2),
        "most_squeue_in_a_minute": max(sum(0 <= other - when < 60 for other in asked) for when in asked),
    }


def compare(cluster: Cluster, place: Path) -> dict[str, Any]:
    """Run the smoke DAG here and through `cluster`, in two copies of the tree below `place`; compare the outcomes."""
    here, there = copy_of_the_tree(place / "local"), with_gpus(copy_of_the_tree(place / "slurm"))
    calls = count_calls(cluster)
    loads = [os.getloadavg()[0]]
    through = snakemake(there, *SLURM, *FAST, env=cluster.env)
    jobs = slurm_jobs(cluster)
    loads.append(os.getloadavg()[0])
    local = snakemake(here, *LOCAL)
    ours, theirs = digests(there), digests(here)
    kinds = {"training": ("train", "train_last"), "sampling": ("sample",)}
    return {
        "slurm_jobs": len(jobs),
        "by_rule": dict(sorted(Counter(rule(j) for j in jobs).items())),
        "states": dict(Counter(j["JobState"] for j in jobs)),
        "wall_s": through,
        "wall_s_without_slurm": local,
        "files_compared": len(theirs),
        "bytes_compared": sum(size for _, size in theirs.values()),
        "files_missing_or_more": sorted(ours.keys() ^ theirs.keys()),
        "files_that_differ": sorted(n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n]),
        **{kind: group([j for j in jobs if rule(j) in rules]) for kind, rules in kinds.items()},
        "without_gpu": group([j for j in jobs if rule(j) not in sum(kinds.values(), ())]),
        "calls": dict(sorted(Counter(x.split()[1] for x in calls.read_text().splitlines()).items())),
        "load_before_and_between": [round(load, 1) for load in loads],
    }


def problems(found: dict[str, Any]) -> list[str]:
    """A sentence for each thing that is wrong in the result of `compare`."""
    training, sampling = found["training"], found["sampling"]
    checks = {
        "files differ from those of the run without SLURM": found["files_that_differ"],
        "files are in one of the two runs only": found["files_missing_or_more"],
        "jobs did not complete": found["states"].keys() - {"COMPLETED"},
        "training jobs did not ask for 8 GPUs of h200": (training["asked_for"], training["partitions"])
        != (["gpu:8"], ["h200"]),
        "sampling jobs did not ask for 1 GPU of h200": (sampling["asked_for"], sampling["partitions"])
        != (["gpu:1"], ["h200"]),
        "other jobs asked for GPUs": found["without_gpu"]["asked_for"] != ["no GPU"],
        "training jobs shared a node": training["pairs_at_once_on_one_node"] or training["most_at_once"] > 2,
        "no training job waited for a node": not training["waited_for_a_node"],
        "sampling jobs never ran side by side on a node": not sampling["pairs_at_once_on_one_node"],
    }
    return [sentence for sentence, wrong in checks.items() if wrong]
