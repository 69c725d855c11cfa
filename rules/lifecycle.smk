# Start and end of a workflow: checks before the first job, the lock on the results, and what is printed last.
import atexit

from srt.artefacts.records import RECORDED
from srt.cluster.slurm import wait_for_orphans
from srt.common.io import write_text
from srt.workflow import out_of_memory, preflight
from srt.workflow.interrupts import interrupt_without_traceback
from srt.workflow.orphans import mark_jobs, wait_for_processes
from srt.workflow.patches import hides_jobs, names_here, planned_jobs, submits_to_slurm
from srt.workflow.result_records import UpToDate, records_of, report_at_the_end
from srt.workflow.results_lock import ResultsLock

interrupt_without_traceback()
LOCK = ResultsLock(Path(CFG.results))
SETTINGS = settings_on_disk(CFG.results)
# whether a result is up to date is asked of the record beside it (srt.workflow.patches)
RECORDS = records_of(Path(CFG.results))
RECORDS.rules = names_here(workflow, RECORDED)
config["up_to_date"] = UpToDate(RECORDS)  # for workflow/report/workflow.rst


def name_other_settings():
    """Say which evaluations are made beside those of other sampling settings, until a run has made a start on them."""
    for sentence in SETTINGS.sentences():
        print(sentence, file=sys.stderr)


if is_controller(workflow):
    atexit.register(lambda: report_at_the_end(RECORDS, workflow.dryrun))
    atexit.register(name_other_settings)
    atexit.register(lambda: workflow.dryrun and end_dry_run())


def planned_inputs():
    """The data sets and the models that planned jobs make from files outside the results folder."""
    jobs = [(RECORDS.rules.get(job.rule.name), job.wildcards) for job in planned_jobs(workflow)]
    datasets = {wildcards.dataset for rule, wildcards in jobs if rule == "data"}
    return datasets, {wildcards.model for rule, wildcards in jobs if rule == "base_model"}


def planned_files():
    """The outputs of all planned jobs."""
    return [str(path) for job in planned_jobs(workflow) for path in job.output]


def warn_of_pruned(files):
    """Say if planned jobs make models again that were pruned."""
    from srt.plan.prune import sentence_on_pruned

    sentence = sentence_on_pruned(files)
    preflight.warn([preflight.Finding("models", not sentence, sentence)])


def end_dry_run():
    """A summary, if the jobs are not shown, and warnings of inputs that are missing."""
    files = planned_files()
    if files and hides_jobs(workflow):
        from srt.plan.preview import preview

        try:
            print(f"\n{preview(CFG, files)}", end="")
        except SrtError as error:  # a damaged table, which may belong to no planned job
            print(f"warning: cannot tell what the jobs cost: {error}", file=sys.stderr)
        print("Each job and why it is made: the same command with --quiet host.", flush=True)
    datasets, models = planned_inputs()
    preflight.warn([*preflight.data(CFG, datasets), *preflight.models(CFG, models), preflight.results(CFG)])
    warn_of_pruned(files)


def or_end(function):
    """Call a function; its SrtError ends the workflow as one sentence (a WorkflowError would add places in this file)."""
    try:
        function()
    except SrtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def largest_request() -> int:
    """GPUs of the largest planned job."""
    requests = {"train": training_request, "train_last": training_request, "sample": sampling_request}
    jobs = [(RECORDS.rules.get(job.rule.name), job.wildcards) for job in planned_jobs(workflow)]
    return max((requests[rule](wildcards).gpus for rule, wildcards in jobs if rule in requests), default=0)


def check_before_start():
    """Refuse to start if a planned job cannot succeed; warn of what may stop one."""
    from srt.audit.at_start import overlaps
    from srt.plan.needs import needs

    datasets, models = planned_inputs()
    gpus, by_slurm = largest_request(), submits_to_slurm(workflow)
    preflight.refuse(
        [
            *preflight.data(CFG, datasets),
            *preflight.models(CFG, models),
            *preflight.hub(CFG, datasets, models),
            preflight.results(CFG),
            *(preflight.partitions(CLUSTER, gpus) if by_slurm else [preflight.gpus(gpus)]),
        ]
    )
    try:
        needed = needs(CFG).disk_bytes
    except SrtError as error:  # a damaged table, which may belong to no planned job
        print(f"warning: cannot tell how much disk space is needed: {error}", file=sys.stderr)
        needed = 0.0
    preflight.warn([*preflight.versions(ROOT), preflight.space(CFG, needed)])
    warn_of_pruned(planned_files())
    if CFG.max_gpu_hours is not None or CFG.max_disk_gb is not None:
        from srt.plan.budget import Budget, Watch

        budget = Budget(CFG)
        budget.refuse(planned_files())
        Watch(budget).start()
    preflight.warn([preflight.Finding("data", False, sentence) for sentence in overlaps(CFG)])


def prune_while_running():
    """Delete models of earlier checkpoints as soon as nothing needs them (key `keep_models`)."""
    from srt.plan.prune import Pruner, WhileRunning

    def reads(job):
        return RECORDS.rules.get(job.rule.name) == "sample"

    def places(job):
        return str(job.input.checkpoint), str(job.output.samples)

    pruning = WhileRunning(Pruner(CFG), [places(job) for job in planned_jobs(workflow) if reads(job)])
    RECORDS.then = lambda job: pruning.made(*places(job)) if reads(job) else None


onstart:
    or_end(check_before_start)
    # unlike Snakemake's own lock, this one is released by the kernel when the process is killed
    or_end(LOCK.acquire)
    name_other_settings()
    or_end(SETTINGS.register)
    or_end(RECORDS.start)
    if CFG.keep_models == "needed":
        or_end(prune_while_running)
    wait_for_orphans(Path(CFG.results), submits_to_slurm(workflow))
    wait_for_processes(Path(CFG.results))
    mark_jobs(Path(CFG.results))
    write_text(PATHS.config(), CFG.model_dump_json(indent=1) + "\n")
    write_text(PATHS.planned(), "\n".join(planned_files()) + "\n")  # for `srt watch`


onsuccess:
    if any(path.startswith(f"{CFG.results}/figures/") for path in planned_files()):
        print(f"figures: {CFG.results}/figures/", file=sys.stderr)
    if PATHS.table("evaluate", "md") in planned_files():
        print(Path(PATHS.table("evaluate", "md")).read_text(encoding="utf-8"), file=sys.stderr)


onerror:
    for _sentence in out_of_memory.FINAL.values():
        print(_sentence, file=sys.stderr)
    print(
        f"failed: the log of each failed job is under {CFG.results}/logs/; run the same command to resume",
        file=sys.stderr,
    )
