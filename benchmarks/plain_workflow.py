"""The same workflow as Snakemake's tutorial would write it, for benchmarks/dryrun.py: same rules, files and jobs.

Each rule names its outputs with wildcards and looks its inputs up in a table (jobs.json), which costs less than any
function that works them out. Nothing else is in it: no library, no checks of the configuration, no records of results.
The profile has the SLURM executor and otherwise Snakemake's defaults.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

from srt.plan.jobs import Dag, Job

# Rules with wildcards: outputs under the results folder. All other rules make fixed files.
PATTERNS = {
    "data": ["data/{dataset}.parquet", "data/{dataset}.json"],
    "base_model": ["models/{model}"],
    "sample": ["eval/{checkpoint}/{suite}.samples.parquet"],
    "score": ["eval/{checkpoint}/{suite}.scores.parquet", "eval/{checkpoint}/{suite}.groups.parquet"],
    "labels": ["labels/{checkpoint}/{dataset}.parquet"],
    "curriculum": ["curriculum/{model}/{subset}.parquet"],
    "preferences": ["preferences/{checkpoint}/{name}.parquet"],
    "train": ["runs/{run}/step-{step}/model", "runs/{run}/step-{step}/metrics.parquet", "runs/{run}/step-{step}/state"],
    "run_metrics": ["runs/{run}/metrics.parquet", "runs/{run}/metrics.csv"],
    "browser": ["browser/{run}.html"],
}  # fmt: skip
FOLDERS = ("/model", "/state", "models/{model}")
GPUS = {"train": 8, "sample": 1}
HEAD = """import json

with open("jobs.json") as handle:
    JOBS = json.load(handle)


wildcard_constraints:
    run="[^/]+",
    step="[0-9]+",
    model="[^/]+",
    dataset="[^/]+",
    suite="[^/]+",
    name="[^/]+",


rule all:
    input:
        JOBS["all"],
"""
RULE = """

rule {name}:
    input:
        {inputs},
    output:
        {outputs},
    log:
        "{results}/logs/{log}.log",
    benchmark:
        "{results}/benchmarks/{log}.tsv"
    threads: 4
    resources:
        gpu={gpus},
        mem_mb=8000,
        runtime=60,
    shell:
        "python scripts/{name}.py --inputs {{input}} --outputs {{output}} > {{log}} 2>&1"
"""
PROFILE = """executor: slurm
jobs: 16
retries: 2
default-resources:
  slurm_account: lab
  slurm_partition: cpu
  runtime: 60
"""


def write(dag: Dag, results: str, folder: Path) -> None:
    """Write Snakefile, jobs.json and profile/ for the jobs of `dag`, whose files are under `results`."""
    by_rule: dict[str, list[Job]] = defaultdict(list)
    for job in dag.jobs.values():
        # a rule of the tutorial's kind makes a file in one way: no second rule for a run's last checkpoint
        by_rule["train" if job.rule == "train_last" else job.rule].append(job)
    inputs = {job.outputs[0]: list(job.inputs) for job in dag.jobs.values()}
    leaves = [path for key in dag.leaves for path in dag.jobs[key].outputs]
    (folder / "jobs.json").write_text(json.dumps({"inputs": inputs, "all": leaves}), encoding="utf-8")
    rules = [_rule(name, results, jobs) for name, jobs in by_rule.items()]
    (folder / "Snakefile").write_text(HEAD + "".join(rules), encoding="utf-8")
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text(PROFILE, encoding="utf-8")


def _rule(name: str, results: str, jobs: list[Job]) -> str:
    patterns = [f"{results}/{pattern}" for pattern in PATTERNS.get(name, [])] or list(jobs[0].outputs)
    first = patterns[0]
    for field in ("dataset", "model", "checkpoint", "suite", "subset", "name", "run", "step"):
        first = first.replace(f"{{{field}}}", f"{{wc.{field}}}")
    found = f'JOBS["inputs"][f"{first}"]' if name in PATTERNS else f'JOBS["inputs"]["{first}"]'
    outputs = [f'directory("{p}")' if p.endswith(FOLDERS) else f'"{p}"' for p in patterns]
    log = os.path.splitext(patterns[0].removeprefix(f"{results}/"))[0]
    return RULE.format(
        name=name, results=results, inputs=f"lambda wc: {found}" if name in PATTERNS else found, log=log,
        outputs=",\n        ".join(outputs), gpus=GPUS.get(name, 0),
    )  # fmt: skip
