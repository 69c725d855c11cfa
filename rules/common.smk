# The configuration and the wildcards that all rules share; what only one stage needs is in that stage's file.
import os
import shlex
import sys
from functools import cache, partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

# the folder of this workflow; the one in which it runs may be another, and another workflow may include it as a module
ROOT = Path(workflow.current_basedir).parent
SCRIPTS = "scripts" if ROOT == Path.cwd() else shlex.quote(f"{ROOT}/scripts")
sys.path.insert(0, str(ROOT / "src"))
from srt.artefacts.evaluations import evaluation_spec, expand_evaluations
from srt.artefacts.paths import Paths
from srt.artefacts.settings import settings_on_disk, stored_suite
from srt.cluster.partitions import PARTITIONS_FILE, read_cluster_limits
from srt.common.errors import SrtError
from srt.common.io import canonical_json
from srt.common.own_code import FOLDERS
from srt.config import load_config
from srt.config.evaluation import SEED_MARK, SETTINGS_MARK
from srt.workflow.environment import collect_garbage_rarely, prepare_environment
from srt.workflow.patches import apply_patches, is_controller, results_of_module
from srt.workflow.wildcards import checkpoints_pattern, runs_pattern

prepare_environment()
collect_garbage_rarely()


def in_one_line(function, *args):
    """Call a function; its SrtError becomes a WorkflowError, which Snakemake prints without a traceback."""
    try:
        return function(*args)
    except SrtError as error:
        raise WorkflowError(str(error)) from None


try:
    CFG = load_config(results_of_module(workflow, config), Path.cwd(), configfiles=workflow.configfiles, home=ROOT)
except SrtError as error:
    # in one line: a WorkflowError would add the place in this file where it was raised
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
_warnings = [*CFG.unpinned(), *apply_patches(Path(CFG.results))]
CONTROLLER = is_controller(workflow)
if CONTROLLER:
    for _sentence in _warnings:
        print(f"warning: {_sentence}", file=sys.stderr)

# where jobs find the functions of the user (docs/own_code.md)
os.environ[FOLDERS] = os.pathsep.join(map(str, CFG.code_folders))
PATHS = Paths(CFG.results)
CLUSTER = in_one_line(read_cluster_limits, ROOT / PARTITIONS_FILE)
RUNS = [instance for run in CFG.runs for instance in CFG.instances(run)]
# All evaluations: as the spec of jobs, as rows, and as the groups files of each run of one seed.
EVALUATION_SPEC = evaluation_spec(CFG)
EVALUATIONS = expand_evaluations(EVALUATION_SPEC)
GROUPS_OF_RUN = {run: [] for run in RUNS}
for _row in EVALUATIONS:
    if _row["run"] in GROUPS_OF_RUN:  # not a model of `evaluate`
        GROUPS_OF_RUN[_row["run"]] += _row["groups"]
GROUPS = sorted({file for row in EVALUATIONS for file in row["groups"]})
# The report sorts its categories by name, hence the numbers. The last one is not in it if there are no claims.
_sections = {
    "claims": "Claims",
    "figures": "Figures",
    "runs": "Runs",
    "data": "Data audit",
    "costs": "Costs",
    "provenance": "Provenance",
}
_order = sorted(_sections, key=lambda key: key == "claims" and not CFG.claims)
SECTIONS = {key: f"{number} {_sections[key]}" for number, key in enumerate(_order, 1)}
# what the texts of the report may speak of
config["shown"] = {"claims": bool(CFG.claims), "datasets": list(CFG.datasets)}
RUN_PATTERN = runs_pattern(RUNS)
_seed = rf"(?:{SEED_MARK}(?:{'|'.join(map(str, CFG.evaluate.seeds))}))?" if CFG.evaluate and CFG.evaluate.seeds else ""


wildcard_constraints:
    dataset="|".join(CFG.datasets),
    model="|".join(CFG.models),
    run=RUN_PATTERN,
    # its id, with a seed of `evaluate`, or its name beside samples of other settings (srt.artefacts.settings)
    suite=rf"(?:{'|'.join([*CFG.suites, *CFG.datasets])}){_seed}(?:{SETTINGS_MARK}[0-9a-f]{{8}})?",
    metric="pass_rate|majority_frequency",
    # a base model, or a step of a run
    checkpoint=rf"base/(?:{'|'.join(CFG.models)})|(?:{RUN_PATTERN})/step-\d+",


def deferred(files: list):
    """A long list of inputs as a function, so that Snakemake examines the paths only when it plans the job.

    Paths in a plain list are examined whenever the rules are read, which every job of a cluster does.
    """
    return lambda wc: files
