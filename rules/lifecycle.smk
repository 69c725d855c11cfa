# Start and end of a workflow: one at a time per results folder; at the end, where to look.
from srt.cluster.slurm import wait_for_orphans
from srt.common.io import write_text
from srt.workflow import out_of_memory
from srt.workflow.patches import submits_to_slurm
from srt.workflow.results_lock import ResultsLock

LOCK = ResultsLock(Path(CFG.results))


onstart:
    # unlike Snakemake's own lock, this one is released by the kernel when the process is killed
    in_one_line(LOCK.acquire)
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
