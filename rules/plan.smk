# What the configuration costs, before it is paid: `snakemake plan` (docs/cost.md).


rule plan:
    """Print jobs, GPU-hours, wall time and disk of the whole configuration, and what of it is done already."""
    log:
        f"{LOGS}/plan/plan.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        config=f"{RESULTS}/config.json",
        out=f"{RESULTS}/plan",
    message:
        "Plan"
    shell:
        "python scripts/plan.py --resolved {params.config} --out {params.out} 2> {log} || {{ cat {log} >&2; exit 1; }}"
