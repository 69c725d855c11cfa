# Early stopping: the step that a held-out validation set chooses, found after the run (paper Section 5.1).
VALIDATED = [run for run in EVALUATION_SPEC["runs"] if run["validation"]]


rule early_stopping:
    """Where early stopping would have stopped each run that has a validation set, and the accuracy there."""
    input:
        groups=deferred(
            sorted({file for row in VALIDATED for i in CFG.instances(row["run"]) for file in GROUPS_OF_RUN[i]})
        ),
    output:
        csv=report(
            PATHS.table("early_stopping"),
            caption="../workflow/report/early_stopping.rst",
            category=SECTIONS["runs"],
            labels={"table": "early stopping"},
        ),
    log:
        PATHS.log("tables/early_stopping"),
    benchmark:
        PATHS.benchmark("tables/early_stopping")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=canonical_json({"results": CFG.results, "runs": VALIDATED}),
    message:
        "Table of early stopping"
    shell:
        f"python {SCRIPTS}/early_stopping.py" " --spec {params.spec:q} --out {output.csv} > {log} 2>&1"
