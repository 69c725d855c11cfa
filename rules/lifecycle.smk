# Start and end of a workflow: one at a time per results folder; at the end, where to look.
import atexit

from srt.cluster.slurm import wait_for_orphans
from srt.common.io import write_text
from srt.workflow import out_of_memory
from srt.workflow.patches import submits_to_slurm
from srt.workflow.result_records import UpToDate, records_of, report_at_the_end
from srt.workflow.results_lock import ResultsLock

LOCK = ResultsLock(Path(CFG.results))
# whether a result is up to date is asked of the record beside it (srt.workflow.patches)
RECORDS = records_of(Path(CFG.results))
config["up_to_date"] = UpToDate(RECORDS)  # for workflow/report/workflow.rst
if is_controller(workflow):
    atexit.register(lambda: report_at_the_end(RECORDS, workflow.dryrun))


onstart:
    # unlike Snakemake's own lock, this one is released by the kernel when the process is killed
    in_one_line(LOCK.acquire)
    in_one_line(RECORDS.start)
    wait_for_orphans(Path(CFG.results), submits_to_slurm(workflow))
    write_text(PATHS.config(), CFG.model_dump_json(indent=1) + "\n")


onsuccess:
    print(f"figures: {CFG.results}/figures/", file=sys.stderr)


onerror:
    for _sentence in out_of_memory.FINAL.values():
        print(_sentence, file=sys.stderr)
    print(
        f"failed: the log of each failed job is under {CFG.results}/logs/; the same command resumes from here",
        file=sys.stderr,
    )
