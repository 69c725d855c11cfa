# Cost of the configuration: `snakemake plan` estimates it before the run, a table reports it afterwards (docs/cost.md).


rule plan:
    """Print jobs, GPU-hours, wall time and disk of the whole configuration, and how much of it is done."""
    log:
        PATHS.log("plan/plan"),
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        config=PATHS.config(),
        out=PATHS.plan(),
    message:
        "Plan"
    shell:
        "python -m srt.cli plan"
        " --resolved {params.config}"
        " --out {params.out}"
        " 2> {log} || {{ cat {log} >&2; exit 1; }}"


rule costs:
    """Time, GPU-hours and memory that jobs took, by rule and model, beside what the plan expected."""
    input:
        rules.results_table.output,
        [files["metrics"] for files in PROVENANCE["runs"].values()],
    output:
        csv=report(
            PATHS.costs(),
            caption="../workflow/report/costs.rst",
            category=SECTIONS["costs"],
            labels={"table": "time, GPU-hours, memory", "format": "numbers"},
        ),
    log:
        PATHS.log("costs/costs"),
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=PATHS.config(),
    message:
        "Costs"
    shell:
        f"python {SCRIPTS}/costs.py" " --resolved {params.config} --out {output.csv} > {log} 2>&1"
