# What scored samples on a training set decide: offline labels of a fixed teacher, and the easiest part for a base model.


rule labels:
    """Offline labels: the majority answer of a fixed teacher (a base model, or a run's step), once a problem."""
    input:
        groups=lambda wc: groups_of(wc.checkpoint, wc.dataset),
    output:
        labels=f"{RESULTS}/labels/{{checkpoint}}/{{dataset}}.parquet",
    log:
        f"{LOGS}/labels/{{checkpoint}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/labels/{{checkpoint}}/{{dataset}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    message:
        "Offline labels of {wildcards.checkpoint} for {wildcards.dataset}"
    shell:
        "python scripts/labels.py --groups {input.groups} --out {output.labels} > {log} 2>&1"


rule curriculum:
    """Curriculum: the easiest part of a training set, by pass rate or by majority frequency of the base model."""
    input:
        groups=lambda wc: groups_of(f"base/{wc.model}", wc.dataset),
    output:
        subset=f"{RESULTS}/curriculum/{{model}}/{{dataset}}-{{metric}}-{{fraction}}.parquet",
    log:
        f"{LOGS}/curriculum/{{model}}/{{dataset}}-{{metric}}-{{fraction}}.log",
    benchmark:
        f"{BENCHMARKS}/curriculum/{{model}}/{{dataset}}-{{metric}}-{{fraction}}.tsv"
    wildcard_constraints:
        fraction=r"0\.\d+",
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        fraction=exact_fraction,
    message:
        "Easiest {wildcards.fraction} of {wildcards.dataset} by {wildcards.metric} of {wildcards.model}"
    shell:
        "python scripts/curriculum.py --groups {input.groups} --by {wildcards.metric}"
        " --fraction {params.fraction} --out {output.subset} > {log} 2>&1"
