# Configuration, paths and wildcards that all rules share.
import sys
from functools import cache, partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))
from srt.config import load_config
from srt.config.preferences import OFFLINE, offline_runs, preference_file, preference_spec
from srt.artefacts.evaluations import evaluation_spec, expand_evaluations
from srt.artefacts.specs import REVISION, data_content, data_revision, data_spec, model_spec, sample_spec, train_spec
from srt.common.errors import SrtError
from srt.figures.resolve import resolve_figure
from srt.common.io import canonical_json, write_text
from srt.cluster.resources import HOST_BASE_MB, sampling_job, training_job
from srt.cluster.partitions import PARTITIONS_FILE, read_cluster_limits
from srt.cluster.slurm import wait_for_orphans
from srt.workflow import out_of_memory
from srt.workflow.environment import collect_garbage_rarely, prepare_environment
from srt.workflow.patches import apply_patches, is_controller, submits_to_slurm
from srt.workflow.results_lock import ResultsLock
from srt.workflow.wildcards import runs_pattern

prepare_environment()
collect_garbage_rarely()

try:
    CFG = load_config(config, Path.cwd(), configfiles=workflow.configfiles)
except SrtError as error:
    # one line and no more: a WorkflowError would add where in this file it was raised
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
_warnings = [*CFG.unpinned(), *apply_patches(Path(CFG.results))]
if is_controller(workflow):
    for _sentence in _warnings:
        print(f"warning: {_sentence}", file=sys.stderr)

RESULTS = CFG.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# The report sorts its categories by name, so the names carry their order.
SECTIONS = {
    "claims": "1 Claims",
    "figures": "2 Figures",
    "runs": "3 Runs",
    "data": "4 Data audit",
    "costs": "5 Costs",
    "provenance": "6 Provenance",
}
RUNS = [i for run in CFG.runs for i in CFG.instances(run)]
RUN_PATTERN = runs_pattern(dict.fromkeys(RUNS, ""))
# All evaluations, for the specs of jobs; their rows; the groups files of each run of one seed.
EVALUATION_SPEC = evaluation_spec(CFG)
EVALUATIONS = expand_evaluations(EVALUATION_SPEC)
GROUPS_OF_RUN = {run: [] for run in RUNS}
for _row in EVALUATIONS:
    GROUPS_OF_RUN[_row["run"]] += _row["groups"]
GROUPS = sorted({file for files in GROUPS_OF_RUN.values() for file in files})
# Thousands of jobs share a few hundred specs.
run_spec = cache(partial(train_spec, CFG))
suite_spec = cache(partial(sample_spec, CFG))


wildcard_constraints:
    dataset="|".join(CFG.datasets),
    model="|".join(CFG.models),
    run=RUN_PATTERN,
    step=r"\d+",
    suite="|".join([*CFG.suites, *CFG.datasets]),
    metric="pass_rate|majority_frequency",
    # a base model, or a step of a run
    checkpoint=rf"base/(?:{'|'.join(CFG.models)})|(?:{RUN_PATTERN})/step-\d+",


def fixed(files: list):
    """A long list of inputs as a function, so that Snakemake looks at each path only where it plans the job.

    Given as a list it does so whenever it reads the rules, and every job of a cluster reads them.
    """
    return lambda wc: files


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


def groups_of(checkpoint: str, suite: str) -> str:
    """Scored groups of a checkpoint on a suite or data set."""
    return f"{RESULTS}/eval/{checkpoint}/{suite}.groups.parquet"


def problem_files(suite: str) -> list:
    """The problem tables of a suite."""
    return [f"{RESULTS}/data/{name}.parquet" for name in CFG.members(suite)]


def model_memory(model: str) -> int:
    """Memory in MB of a job that makes a base model: its weights in float32, three times over, unless it copies files."""
    entry = CFG.models[model]
    weights = 0 if entry.source in ("hub", "local") else entry.parameters
    return int(HOST_BASE_MB + weights * 4 * 3 / 1e6)


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
    """Where the run starts, problems, and what the method needs: the last state, labels, a subset."""
    run = CFG.entry(wc.run)[1]
    inputs = {
        "base": checkpoint_dir(CFG.start(wc.run)),
        "problems": f"{RESULTS}/data/{run.data}.parquet",
    }
    if previous(wc):
        inputs["resume"] = f"{RESULTS}/runs/{wc.run}/step-{previous(wc)}/state"
    if run.uses_labels:
        inputs["labels"] = labels_file(wc.run)
    if run.reward in OFFLINE:
        inputs["preferences"] = f"{RESULTS}/{preference_file(CFG, wc.run)}"
    if run.curriculum:
        inputs["subset"] = subset_file(run)
    return inputs


def labels_file(instance: str) -> str:
    """The labels of a run that uses them: the majorities of its teacher on its training set."""
    return f"{RESULTS}/labels/{CFG.teacher(instance)}/{CFG.entry(instance)[1].data}.parquet"


def subset_file(run) -> str:
    """The problems of a run with a curriculum."""
    part = f"{run.data}-{run.curriculum.by}-{run.curriculum.fraction:.4f}"
    return f"{RESULTS}/curriculum/{CFG.ranking_model(run)}/{part}.parquet"


def exact_fraction(wc) -> float:
    """The curriculum fraction that a file name rounds to four digits."""
    given = {r.curriculum.fraction for r in CFG.runs.values() if r.curriculum}
    return next((f for f in sorted(given) if f"{f:.4f}" == wc.fraction), float(wc.fraction))


# Only what differs: it changes what a log says, and no result
ALARM = "".join(f" {key}={value}" for key, value in CFG.alarm.changed().items())
ALARM = f" --alarm{ALARM}" if ALARM else ""


def segment_options(wc, input) -> str:
    """Command-line options for the inputs that only some methods have."""
    return " ".join(f"--{k} {input[k]}" for k in ("resume", "labels", "preferences", "subset") if k in input.keys())


def in_one_line(function, *args):
    """Call a function; its SrtError becomes Snakemake's, which has no traceback."""
    try:
        return function(*args)
    except SrtError as error:
        raise WorkflowError(str(error)) from None


REQUESTS = {}  # by kind of job: each resource of a rule is a function, and all of them read the same request


def training_request(wc):
    """What a training job requests."""
    key = wc.run, int(wc.step) - previous(wc)
    if key not in REQUESTS:
        REQUESTS[key] = in_one_line(training_job, CFG, *key, CLUSTER)
    return REQUESTS[key]


def sampling_request(wc):
    """What a sampling job requests."""
    key = "sample", checkpoint_model(wc.checkpoint), wc.suite
    if key not in REQUESTS:
        REQUESTS[key] = in_one_line(sampling_job, CFG, *key[1:], CLUSTER)
    return REQUESTS[key]


def train_gpus(wc) -> int:
    """GPUs of a run's jobs, over all nodes."""
    return training_request(wc).gpus


def train_nodes(wc) -> int:
    """Nodes of a run's jobs: as few as hold its GPUs."""
    return CLUSTER.nodes(train_gpus(wc))


def train_gres(wc) -> str:
    """GPUs of each of several nodes. `gpu`, the job's total, serves one node only: its job step has just one."""
    nodes = train_nodes(wc)
    if train_gpus(wc) % nodes:
        raise WorkflowError(
            f"gpus_train={train_gpus(wc)} does not fill {nodes} nodes of {CLUSTER.gpus_per_node} GPUs evenly: "
            f"use a multiple of {nodes}, or correct gpus_per_node in partitions.yaml"
        )
    return f"gpu:{train_gpus(wc) // nodes}" if nodes > 1 else ""


def figure_caption(name: str) -> str:
    """The caption file of a figure, for the report."""
    caption = f"workflow/report/{name}.rst"
    if not (ROOT / caption).is_file():
        raise WorkflowError(f"figure '{name}' has no caption: write {caption}")
    return f"../{caption}"


LOCK = ResultsLock(Path(RESULTS))
CLUSTER = in_one_line(read_cluster_limits, ROOT / PARTITIONS_FILE)
# Inside its SLURM job a rule would also be retried, in the same memory and in what is left of the time.
RETRIES = 3 if is_controller(workflow) else 0


onstart:
    # Snakemake's own lock outlives a killed run and then blocks the same command; the kernel frees this one
    try:
        LOCK.acquire()
    except SrtError as error:
        raise WorkflowError(str(error)) from None
    wait_for_orphans(Path(RESULTS), submits_to_slurm(workflow))
    write_text(f"{RESULTS}/config.json", CFG.model_dump_json(indent=1) + "\n")


onsuccess:
    shell("echo 'figures: {RESULTS}/figures/' >&2")


onerror:
    for _sentence in out_of_memory.FINAL.values():
        print(_sentence, file=sys.stderr)
    shell("echo 'failed: the log of each failed job is under {LOGS}/; the same command goes on from here' >&2")
