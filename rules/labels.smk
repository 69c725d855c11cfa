# What the base model's scored samples on a training set decide: offline labels and the easiest part.


rule labels:
    """Offline labels: the majority answer of the base model, once for each problem."""
    input:
        groups=lambda wc: base_groups(wc.model, wc.dataset),
    output:
        labels=f"{RESULTS}/labels/{{model}}/{{dataset}}.parquet",
    log:
        f"{LOGS}/labels/{{model}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/labels/{{model}}/{{dataset}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    message:
        "Offline labels of {wildcards.model} for {wildcards.dataset}"
    shell:
        "python scripts/labels.py --groups {input.groups} --out {output.labels} > {log} 2>&1"


rule curriculum:
    """Curriculum: the easiest part of a training set, by pass rate or by majority frequency of the base model."""
    input:
        groups=lambda wc: base_groups(wc.model, wc.dataset),
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
        "Easiest {wildcards.fraction} of {wildcards.dataset} by {wildcards.metric}"
    shell:
        "python scripts/curriculum.py --groups {input.groups} --by {wildcards.metric}"
        " --fraction {params.fraction} --out {output.subset} > {log} 2>&1"
