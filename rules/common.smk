# Configuration, paths and wildcards that all rules share.
import os
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))
from srt.config import load_config
from srt.config.spec import REVISION, data_spec, model_spec, sample_spec, train_spec
from srt.errors import SrtError
from srt.io import canonical_json, write_text
from srt.slurm import install, wait_for_orphans
from srt.workflow import ResultsLock, evaluations, prepare_environment, resolve_figure

prepare_environment()

try:
    CFG = load_config(config, Path.cwd(), configfiles=workflow.configfiles)
except SrtError as error:
    # one line and no more: a WorkflowError would add where in this file it was raised
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS = CFG.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
RUNS = [i for run in CFG.runs for i in CFG.instances(run)]


wildcard_constraints:
    dataset="|".join(CFG.datasets),
    model="|".join(CFG.models),
    run="|".join(RUNS),
    step=r"\d+",
    suite="|".join([*CFG.suites, *CFG.datasets]),
    metric="pass_rate|majority_frequency",
    # a base model, or a step of a run
    checkpoint="|".join([*(f"base/{m}" for m in CFG.models), *(rf"{r}/step-\d+" for r in RUNS)]),


def checkpoint_dir(checkpoint: str) -> str:
    """The model folder of a checkpoint: base/{model} or {run}/step-{n}."""
    if checkpoint.startswith("base/"):
        return f"{RESULTS}/models/{checkpoint.removeprefix('base/')}"
    return f"{RESULTS}/runs/{checkpoint}/model"


def checkpoint_model(checkpoint: str) -> str:
    """The base model that a checkpoint is, or comes from."""
    if checkpoint.startswith("base/"):
        return checkpoint.removeprefix("base/")
    return CFG.entry(checkpoint.partition("/")[0])[1].model


def base_groups(model: str, suite: str) -> str:
    """Scored groups of a base model on a suite or data set."""
    return f"{RESULTS}/eval/base/{model}/{suite}.groups.parquet"


def problem_files(suite: str) -> list:
    """The problem tables of a suite."""
    return [f"{RESULTS}/data/{name}.parquet" for name in CFG.members(suite)]


def memory(model: str, kind: str) -> int:
    """Host memory in MB for a job on this model: its weights in float32, a few times over when training."""
    weights = CFG.models[model].parameters * 4 / 1e6
    return int(1200 + weights * (6 if kind == "train" else 2))


def previous(wc) -> int:
    """The step that a segment starts from; 0 is the base model."""
    run = CFG.entry(wc.run)[1]
    steps = [0, *run.checkpoints]
    if int(wc.step) not in steps[1:]:
        raise WorkflowError(
            f"run {wc.run} has no checkpoint at step {wc.step}: its steps are {', '.join(map(str, steps[1:]))}"
        )
    return steps[steps.index(int(wc.step)) - 1]


def segment_inputs(wc) -> dict:
    """Base model, problems, and what the method needs: the last state, labels, a subset."""
    run = CFG.entry(wc.run)[1]
    inputs = {
        "base": f"{RESULTS}/models/{run.model}",
        "problems": f"{RESULTS}/data/{run.data}.parquet",
    }
    if previous(wc):
        inputs["resume"] = f"{RESULTS}/runs/{wc.run}/step-{previous(wc)}/state"
    if run.reward == "offline_labels":
        inputs["labels"] = f"{RESULTS}/labels/{run.model}/{run.data}.parquet"
    if run.curriculum:
        part = f"{run.data}-{run.curriculum.by}-{run.curriculum.fraction:.4f}"
        inputs["subset"] = f"{RESULTS}/curriculum/{run.model}/{part}.parquet"
    return inputs


def exact_fraction(wc) -> float:
    """The curriculum fraction that a file name rounds to four digits."""
    given = {r.curriculum.fraction for r in CFG.runs.values() if r.curriculum}
    return next((f for f in sorted(given) if f"{f:.4f}" == wc.fraction), float(wc.fraction))


def segment_options(wc, input) -> str:
    """Command-line options for the inputs that only some methods have."""
    return " ".join(f"--{k} {input[k]}" for k in ("resume", "labels", "subset") if k in input.keys())


def train_gpus(wc) -> int:
    """GPUs of a run's jobs, over all nodes."""
    return CFG.models[CFG.entry(wc.run)[1].model].gpus_train


def train_nodes(wc) -> int:
    """Nodes of a run's jobs: as few as hold its GPUs."""
    return max(1, -(-train_gpus(wc) // GPUS_PER_NODE))


def train_gres(wc) -> str:
    """GPUs of each of several nodes. `gpu`, the job's total, serves one node only: its job step has just one."""
    nodes = train_nodes(wc)
    if train_gpus(wc) % nodes:
        raise WorkflowError(
            f"gpus_train={train_gpus(wc)} does not fill {nodes} nodes of {GPUS_PER_NODE} GPUs evenly: "
            f"use a multiple of {nodes}, or set SRT_GPUS_PER_NODE"
        )
    return f"gpu:{train_gpus(wc) // nodes}" if nodes > 1 else ""


def figure_caption(name: str) -> str:
    """The caption file of a figure, for the report."""
    caption = f"workflow/report/{name}.rst"
    if not (ROOT / caption).is_file():
        raise WorkflowError(f"figure '{name}' has no caption: write {caption}")
    return f"../{caption}"


LOCK = ResultsLock(Path(RESULTS))
GPUS_PER_NODE = int(os.environ.get("SRT_GPUS_PER_NODE", 8))
# A rule's own `retries` would also be taken inside its SLURM job, in the same memory and what is left of the time.
RETRIES = 0 if workflow.remote_exec else 3
if not workflow.remote_exec:
    install(Path(RESULTS))


onstart:
    # Snakemake's own lock outlives a killed run and then blocks the same command; the kernel frees this one
    try:
        LOCK.acquire()
    except SrtError as error:
        raise WorkflowError(str(error)) from None
    wait_for_orphans(Path(RESULTS), workflow.executor_plugin.name == "slurm")
    write_text(f"{RESULTS}/config.json", CFG.model_dump_json(indent=1) + "\n")


onsuccess:
    shell("echo 'figures: {RESULTS}/figures/' >&2")


onerror:
    shell("echo 'failed: the log of each failed job is under {LOGS}/; the same command goes on from here' >&2")
