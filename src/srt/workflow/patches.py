"""The only module that depends on private parts of Snakemake and of its SLURM plugin.

Each `Patch` replaces functions and says for which version it was written and what a user sees without it.
`apply_patches` applies them where the workflow is read, and `apply_reader_patch`, called by the default profile, the
one that is needed before. A patch that does not fit the installed version is left out, with a sentence on stderr: the
workflow still plans and runs, with that symptom. An attribute of Snakemake's `workflow` that a later version lacks has
a default in the same way.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shlex
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

from srt.cluster.slurm import job_prefix, squeue
from srt.common.errors import EXIT_USAGE, SrtError
from srt.config.loading import read_yaml
from srt.workflow import out_of_memory
from srt.workflow.grouping import joining_one_level
from srt.workflow.report_style import with_our_style
from srt.workflow.result_records import (
    differing_from_record,
    inputs_by_record,
    knowing_records,
    never_outdated,
    newer_than_any_input,
    with_record,
    without_record,
)
from srt.workflow.results_lock import ResultsLock
from srt.workflow.submission import leaving_it_to_sbatch, waiting_for_slurm
from srt.workflow.targets import listing_for_people, naming_the_nearest_target

# A preempted job that SLURM requeues shows PREEMPTED for up to two minutes (sacct, credential lifetime), then PENDING.
PREEMPTED_SECONDS = float(os.environ.get("SRT_PREEMPTED_SECONDS", 180))


REMEDY = "To get it back, install the versions of constraints.txt"


@dataclass(frozen=True)
class Part:
    """One function of another package that is replaced.

    Attributes:
        module: the module that holds the function.
        attribute: the function's dotted name in the module; a property is replaced like its function.
        parameters: the function's parameters, by which a change in a later version is noticed.
        replacement: takes the original and the results folder, returns the function to use instead.
    """

    module: str
    attribute: str
    parameters: str
    replacement: Callable[[Callable[..., Any], Path], Callable[..., Any]]

    def find(self) -> tuple[Any, str, Any]:
        """Where the function is, its name there, and the function.

        Raises:
            ValueError: what the installed version has or lacks.
        """
        *path, name = self.attribute.split(".")
        try:
            owner = functools.reduce(getattr, path, importlib.import_module(self.module))
            original = getattr(owner, name)
        except (ImportError, AttributeError):
            raise ValueError(f"has no {self.module}.{self.attribute}") from None
        found = inspect.signature(_function(original)).parameters
        if not hasattr(_function(original), "patched_by") and " ".join(found) != self.parameters:
            raise ValueError(f"has other parameters for {self.module}.{self.attribute}")
        return owner, name, original


def _function(original: Any) -> Callable[..., Any]:
    return original.fget if isinstance(original, property) else original


@dataclass(frozen=True)
class Patch:
    """One change to another package: all of its parts are replaced, or none.

    Attributes:
        package: the distribution that it was written for; one that is not loaded is left alone.
        version: the version that it was written for.
        symptom: what a user sees without the patch.
        parts: the functions that are replaced.
    """

    package: str
    version: str
    symptom: str
    parts: tuple[Part, ...]

    def apply(self, results: Path) -> str | None:
        """Replace the functions for the life of this process; a second call changes nothing.

        Returns:
            None, or a sentence that says why the patch does not fit the installed version.
        """
        if self.parts[0].module.partition(".")[0] not in sys.modules:
            return None
        try:
            found = [part.find() for part in self.parts]
        except ValueError as error:
            return (
                f"{self.package} {metadata.version(self.package)} {error}, which is patched for version "
                f"{self.version}. Without the patch {self.symptom}. {REMEDY}"
            )
        for part, (owner, name, original) in zip(self.parts, found, strict=True):
            function = _function(original)
            if not hasattr(function, "patched_by"):
                replaced = part.replacement(function, results)
                replaced.patched_by = self  # type: ignore[attr-defined]
                setattr(owner, name, property(replaced) if isinstance(original, property) else replaced)
        return None


def apply_patches(results: Path) -> list[str]:
    """Apply all patches that fit; return a sentence for each that does not."""
    return [sentence for patch in PATCHES if (sentence := patch.apply(results))]


def apply_reader_patch() -> None:
    """Apply the patch of the reader of configuration files, which Snakemake calls before it reads the workflow."""
    if sentence := READER_PATCH.apply(Path()):
        print(f"warning: {sentence}", file=sys.stderr)


# -- Snakemake ----------------------------------------------------------------------------------------------------


def is_controller(workflow: Any) -> bool:
    """Whether this Snakemake plans and submits, or is one that such a Snakemake started inside a job."""
    symptom = "a job that fails inside a SLURM job is tried again there, with the same memory, in the time that is left"
    return bool(_read(workflow, "is_main_process", True, symptom))


def submits_to_slurm(workflow: Any) -> bool:
    """Whether the jobs go to SLURM; known once the workflow starts, not while its rules are read."""
    symptom = "jobs that a killed controller left in SLURM are not waited for and may run twice"
    executor = _read(workflow, "executor_plugin", None, symptom)
    return executor is not None and executor.name == "slurm"


def planned_jobs(workflow: Any) -> list[Any]:
    """The jobs of this run, each with `rule.name` and `wildcards`; known once the DAG is built, until then empty.

    A dry-run counts its jobs as finished at its end, so finished ones are included.
    """
    dag = _read(workflow, "dag", None, "missing inputs are found by the jobs that need them")
    return [] if dag is None else list(dag.needrun_jobs(exclude_finished=False))


def hides_jobs(workflow: Any) -> bool:
    """Whether a dry-run prints no job by itself, as with `--quiet`."""
    settings = _read(workflow, "output_settings", None, "a dry-run prints no summary in place of its jobs")
    return settings is not None and "rules" in {str(each.name).lower() for each in settings.quiet or ()}


def results_of_module(workflow: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the results folder that a `prefix` or `replace_prefix` of a Snakemake module asks for.

    Snakemake would put the prefix before the paths of inputs and outputs only, not before those in specs, logs' texts
    and tables. So it is taken away from Snakemake's path modifier, and stands before the results folder.
    """
    modifier = getattr(getattr(workflow, "modifier", None), "path_modifier", None)
    if modifier is None or not isinstance(config.get("results"), str):
        return config
    if not hasattr(modifier, "srt_taken"):
        modifier.srt_taken = copy(modifier)
        modifier.prefix = modifier._prefix_replacements = None
    return {**config, "results": modifier.srt_taken.replace_prefix(config["results"] + "/").removesuffix("/")}


def names_here(workflow: Any, rules: Iterable[str]) -> dict[str, str]:
    """The names that rules have in the workflow that includes this one as a module, and their own."""
    modifier = getattr(workflow, "modifier", None)
    return {modifier.modify_rulename(name) if modifier else name: name for name in rules}


def _read(workflow: Any, name: str, default: Any, symptom: str) -> Any:
    """An attribute of Snakemake's `workflow`; a sentence on stderr and the default if there is none."""
    try:
        return getattr(workflow, name)
    except AttributeError:
        version = metadata.version("snakemake")
        told = f"snakemake {version} has no workflow.{name}. Without it {symptom}. {REMEDY}"
        print(f"warning: {told}", file=sys.stderr)
        return default


def naming_the_line(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`_load_configfile` that ends the process with one sentence, exit code 2, if a file cannot be read as YAML."""

    def load_configfile(configpath_or_obj: Any, filetype: str = "Config") -> Any:
        if isinstance(configpath_or_obj, str | Path):
            try:
                read_yaml(Path(configpath_or_obj))
            except SrtError as error:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
                sys.exit(EXIT_USAGE)
        return original(configpath_or_obj, filetype)

    return load_configfile


def one_timer_at_a_time(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`JobScheduler._schedule_reevalutation` that does nothing while its timer runs."""

    def schedule(scheduler: Any, delay: float) -> None:
        if getattr(scheduler, "timer_runs", False):
            return
        scheduler.timer_runs = True

        def reevaluate() -> None:
            scheduler.timer_runs = False
            scheduler._open_jobs.release()

        timer = threading.Timer(delay, reevaluate)
        timer.daemon = True  # the end of the workflow need not wait for it
        timer.start()

    return schedule


def locking_the_results(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`DAGApi.delete_output` that holds the lock of the results folder."""
    lock = ResultsLock(results)

    def delete_output(api: Any, only_temp: bool = False, dryrun: bool = False) -> None:
        if not dryrun:
            try:
                lock.acquire()
            except SrtError as error:
                raise WorkflowError(str(error)) from None
        original(api, only_temp, dryrun)

    return delete_output


# -- its SLURM plugin ---------------------------------------------------------------------------------------------


def with_default_settings(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Executor.__post_init__` that first sets the jobs' name and the folder of logs, unless the user has."""

    def post_init(executor: Any, test_mode: bool = False) -> None:
        settings = executor.workflow.executor_settings
        settings.jobname_prefix = settings.jobname_prefix or job_prefix(results)
        settings.logdir = settings.logdir or results / "logs" / "slurm"
        settings.efficiency_report_path = settings.efficiency_report_path or results / "logs" / "slurm"
        original(executor, test_mode)

    return post_init


def naming_memory(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Executor.report_job_error` that says how much memory a job had if it was killed for using too much."""

    def report_job_error(executor: Any, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        if out_of_memory.was_the_cause(kwargs.get("aux_logs") or ()):
            job = job_info.job
            if job.is_group():  # most likely the one that asks for most
                job = max(job.jobs, key=lambda each: int(each.resources["mem_mb"]))
            sentence = out_of_memory.sentence(
                job.rule.name, job.wildcards, int(job.resources["mem_mb"]), job.attempt, job.restart_times + 1
            )
            msg = f"{sentence} {msg or ''}".strip()
        original(executor, job_info, msg, **kwargs)

    return report_job_error


Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]


class StatusQuery:
    """The plugin's `query_job_status`, made so that every wait ends. Returns states by job id, and seconds."""

    def __init__(self, query: Query, clock: Callable[[], float] = time.monotonic) -> None:
        self.query, self.clock = query, clock
        self.preempted: dict[str, float] = {}
        self.silent = False

    async def __call__(self, command: str, logger: Any) -> tuple[dict[str, str], float]:
        states, seconds = await self.query(command, logger)
        if states is None and shlex.split(command)[0] == "sacct":  # no accounting, or not reachable: ask slurmctld
            name = shlex.split(command)[-1]
            states, seconds = await self.query(shlex.join(squeue(f"--name={name}", "--format=%i|%T")), logger)
        if states is None:
            if not self.silent:
                logger.warning("SLURM does not answer. Running jobs continue, and the query is repeated until it does.")
            self.silent = True
            return {}, 0.0  # the plugin keeps jobs without a state, but forgets all of them if it gets None
        if self.silent:
            logger.warning("SLURM answers again.")
        self.silent = False
        return {job: self.settle(job, state, logger) for job, state in states.items()}, seconds or 0.0

    def settle(self, job: str, state: str, logger: Any) -> str:
        """The state as the plugin knows it: its first word, and CANCELLED for a job that stays PREEMPTED."""
        state = state.split(maxsplit=1)[0] if state.strip() else state
        if state != "PREEMPTED":
            self.preempted.pop(job, None)
            return state
        since = self.preempted.setdefault(job, self.clock())
        if self.clock() - since < PREEMPTED_SECONDS:
            return state
        logger.warning(f"SLURM job {job} was preempted and not requeued: it counts as cancelled and is tried again.")
        return "CANCELLED"


SNAKEMAKE = ("snakemake", "9.27.1")
PLUGIN = ("snakemake-executor-plugin-slurm", "2.8.0")

PERSISTENCE = "snakemake.persistence"
PLUGIN_MODULE = "snakemake_executor_plugin_slurm"

READER_PATCH = Patch(
    *SNAKEMAKE,
    "a mistake in the YAML of the main configuration file is reported without its line",
    (
        Part(
            "snakemake.common.configfile",
            "_load_configfile",
            "configpath_or_obj filetype",
            naming_the_line,
        ),
    ),
)
PATCHES = (
    Patch(
        *SNAKEMAKE,
        "--delete-all-output and --delete-temp-output delete what a running workflow of the same results folder reads",
        (Part("snakemake.api", "DAGApi.delete_output", "self only_temp dryrun", locking_the_results),),
    ),
    Patch(
        *SNAKEMAKE,
        "a wrong target is refused without naming the nearest one",
        (Part("snakemake.workflow", "Workflow._build_dag", "self", naming_the_nearest_target),),
    ),
    Patch(
        *SNAKEMAKE,
        "--list prints every rule, hundreds of them",
        (Part("snakemake.workflow", "Workflow.list_rules", "self only_targets", listing_for_people),),
    ),
    Patch(
        *SNAKEMAKE,
        "the top of the report's first page is above the window and cannot be scrolled to",
        (Part("snakemake.report.html_reporter", "Reporter.__post_init__", "self", with_our_style),),
    ),
    Patch(
        *SNAKEMAKE,
        "--group-components joins jobs that wait for each other, and such groups are refused",
        (Part("snakemake.dag", "DAG._update_group_components", "self", joining_one_level),),
    ),
    Patch(
        *SNAKEMAKE,
        "every job that ends leaves one more timer that looks at all ready jobs once per second: 30 looks per second "
        "after 400 jobs, which takes a third of a core",
        (
            Part(
                "snakemake.scheduling.job_scheduler",
                "JobScheduler._schedule_reevalutation",
                "self delay",
                one_timer_at_a_time,
            ),
        ),
    ),
    Patch(
        *SNAKEMAKE,
        "Snakemake decides by its own records in .snakemake and by file times alone: copied results are made again, "
        "and results of another configuration pass for this one's where .snakemake is gone",
        (
            Part(PERSISTENCE, "PersistenceBase.has_metadata", "self job", knowing_records),
            Part(PERSISTENCE, "PersistenceBase.has_outdated_metadata", "self job", never_outdated),
            Part(PERSISTENCE, "PersistenceBase.params_changed", "self job file", differing_from_record),
            Part(PERSISTENCE, "PersistenceBase.input_changed", "self job file", inputs_by_record),
            Part(PERSISTENCE, "PersistenceBase.started", "self job external_jobid", without_record),
            Part(
                "snakemake.jobs",
                "Job.postprocess",
                "self store_in_storage handle_log handle_touch error ignore_missing_output check_output_mtime",
                with_record,
            ),
            Part("snakemake.jobs", "Job.output_mintime", "self", newer_than_any_input),
        ),
    ),
    Patch(
        *PLUGIN,
        "jobs of a killed controller are not found again and may run twice, and SLURM's logs are in .snakemake",
        (Part(PLUGIN_MODULE, "Executor.__post_init__", "self test_mode", with_default_settings),),
    ),
    Patch(
        *PLUGIN,
        "the workflow waits for ever after a few failed status queries, after `scancel` (sacct says 'CANCELLED by "
        "1000') and after a preemption without requeue",
        (
            Part(
                PLUGIN_MODULE,
                "query_job_status",
                "command logger",
                lambda original, results: StatusQuery(original),
            ),
        ),
    ),
    Patch(
        *PLUGIN,
        "a job that was killed for its memory is reported only as FAILED",
        (Part(PLUGIN_MODULE, "Executor.report_job_error", "self job_info msg kwargs", naming_memory),),
    ),
    Patch(
        *PLUGIN,
        "a job that SLURM refuses for a moment (limit of submitted jobs, controller away) fails after retries within a "
        "second, and with it all that depends on it",
        (
            Part(PLUGIN_MODULE, "Executor._report_job_error_threadsafe", "self job_info msg", waiting_for_slurm),
            Part(PLUGIN_MODULE, "validate_account", "account logger", leaving_it_to_sbatch),
        ),
    ),
)
