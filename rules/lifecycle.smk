# Start and end of a workflow: checks before the first job, the lock on the results, and what is printed last.
import atexit

from srt.artefacts.records import RECORDED
from srt.cluster.slurm import wait_for_orphans
from srt.common.io import write_text
from srt.workflow import out_of_memory, preflight
from srt.workflow.interrupts import interrupt_without_traceback
from srt.workflow.orphans import mark_jobs, wait_for_processes
from srt.workflow.patches import names_here, planned_jobs, submits_to_slurm
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
    atexit.register(lambda: workflow.dryrun and name_missing_inputs())


def planned_inputs():
    """The data sets and the models that planned jobs make from files outside the results folder."""
    jobs = [(RECORDS.rules.get(job.rule.name), job.wildcards) for job in planned_jobs(workflow)]
    datasets = {wildcards.dataset for rule, wildcards in jobs if rule == "data"}
    return datasets, {wildcards.model for rule, wildcards in jobs if rule == "base_model"}


def name_missing_inputs():
    """At the end of a dry-run: a warning for each input of a planned job that is missing."""
    datasets, models = planned_inputs()
    preflight.warn([*preflight.data(CFG, datasets), *preflight.models(CFG, models), preflight.results(CFG)])


def largest_request() -> int:
    """GPUs of the largest planned job."""
    requests = {"train": training_request, "train_last": training_request, "sample": sampling_request}
    jobs = [(RECORDS.rules.get(job.rule.name), job.wildcards) for job in planned_jobs(workflow)]
    return max((requests[rule](wildcards).gpus for rule, wildcards in jobs if rule in requests), default=0)


def check_before_start():
    """Refuse to start if a planned job cannot succeed; warn of what may stop one."""
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


onstart:
    in_one_line(check_before_start)
    # unlike Snakemake's own lock, this one is released by the kernel when the process is killed
    in_one_line(LOCK.acquire)
    name_other_settings()
    in_one_line(SETTINGS.register)
    in_one_line(RECORDS.start)
    wait_for_orphans(Path(CFG.results), submits_to_slurm(workflow))
    wait_for_processes(Path(CFG.results))
    mark_jobs(Path(CFG.results))
    write_text(PATHS.config(), CFG.model_dump_json(indent=1) + "\n")


onsuccess:
    print(f"figures: {CFG.results}/figures/", file=sys.stderr)


onerror:
    for _sentence in out_of_memory.FINAL.values():
        print(_sentence, file=sys.stderr)
    print(
        f"failed: the log of each failed job is under {CFG.results}/logs/; run the same command to resume",
        file=sys.stderr,
    )
