# Configuration, paths and wildcards that all rules share.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))
# `python` in the rules is the one that runs Snakemake, unless a conda environment puts its own in front.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
# One thread a process unless a script asks for more: results depend on it, and idle OpenMP threads spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from srt.config import load_config
from srt.config.spec import data_spec, model_spec, sample_spec, train_spec
from srt.errors import SrtError, nearest
from srt.io import canonical_json, write_text
from srt.workflow import ResultsLock, evaluations, resolve_figure

ORIGIN = str(workflow.configfiles[-1]) if workflow.configfiles else "config/config.yaml"
try:
    CFG = load_config(config, Path.cwd(), os.path.relpath(ORIGIN))
except SrtError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CFG.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
RUNS = [i for run in CFG.runs for i in CFG.instances(run)]


wildcard_constraints:
    dataset="|".join(CFG.datasets),
    model="|".join(CFG.models),
    run="|".join(RUNS),
    step=r"\d+",
    figure="|".join(CFG.figures) or "none",
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


LOCK = ResultsLock(Path(RESULTS))


onstart:
    # Snakemake's own lock outlives a killed run and then blocks the same command; the kernel frees this one
    try:
        LOCK.acquire()
    except SrtError as error:
        raise WorkflowError(str(error)) from None
    write_text(f"{RESULTS}/config.json", CFG.model_dump_json(indent=1) + "\n")


onsuccess:
    shell("echo 'figures: {RESULTS}/figures/' >&2")


onerror:
    shell("echo 'failed: the log of each failed job is under {LOGS}/; the same command goes on from here' >&2")
