# Start and peak of runs under both gradings: a box demanded, or the whole response read (docs/answers.md).
from srt.artefacts.gradings import resolve_gradings

_gradings, _graded = resolve_gradings(CFG) if CFG.gradings else ({}, {"groups": [], "samples": [], "problems": []})


rule gradings:
    """avg@n of start and peak, and their ratio, by the configured grading and by the other one."""
    input:
        groups=deferred(_graded["groups"]),
        samples=deferred(_graded["samples"]),
        problems=_graded["problems"],
    output:
        csv=report(
            PATHS.table("gradings"),
            caption="../workflow/report/gradings.rst",
            category=SECTIONS["runs"],
            labels={"table": "both gradings"},
        ),
    log:
        PATHS.log("tables/gradings"),
    benchmark:
        PATHS.benchmark("tables/gradings")
    conda:
        "../envs/workflow.yaml"
    threads: CFG.scoring.workers
    resources:
        mem_mb=lambda wc, attempt: (2 * HOST_BASE_MB + CFG.scoring.memory_mb * CFG.scoring.workers) * attempt,
        runtime=240,
    params:
        revision=REVISION["score"],
        spec=canonical_json(_gradings),
    message:
        "Table of both gradings"
    shell:
        f"python {SCRIPTS}/gradings.py"
        " --spec {params.spec:q}"
        " --problems {input.problems}"
        f"{LIMITS}"
        " --workers {threads}"
        " --out {output.csv}"
        " > {log} 2>&1"
