# What scored samples on a training set decide: offline labels and stored responses of a fixed teacher, the easiest part.

# The spec of each table of stored responses; runs share them.
PREFERENCES = {
    f"{RESULTS}/{preference_file(CFG, i)}": canonical_json(preference_spec(CFG, i)) for i in offline_runs(CFG)
}


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


rule preferences:
    """Stored responses for SFT, DPO and ScPO: chosen by the votes of a teacher (a base model, or a run's step)."""
    input:
        samples=lambda wc: f"{RESULTS}/eval/{wc.checkpoint}/{wc.dataset}.samples.parquet",
        scores=lambda wc: f"{RESULTS}/eval/{wc.checkpoint}/{wc.dataset}.scores.parquet",
    output:
        preferences=f"{RESULTS}/preferences/{{checkpoint}}/{{dataset}}-{{part}}.parquet",
    log:
        f"{LOGS}/preferences/{{checkpoint}}/{{dataset}}-{{part}}.log",
    benchmark:
        f"{BENCHMARKS}/preferences/{{checkpoint}}/{{dataset}}-{{part}}.tsv"
    wildcard_constraints:
        part=r"(sft|pairs)-[^/]+-s\d+",
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        spec=lambda wc, output: PREFERENCES[output.preferences],
    message:
        "Stored responses of {wildcards.checkpoint} to {wildcards.dataset}: {wildcards.part}"
    shell:
        "python scripts/preferences.py --samples {input.samples} --scores {input.scores} --spec {params.spec:q}"
        " --out {output.preferences} > {log} 2>&1"


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
