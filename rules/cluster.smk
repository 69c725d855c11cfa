# A look at the cluster before the first run: one tiny job a partition (docs/cluster.md).


rule slurm_check_partition:
    """What a job on one partition finds: GPUs, driver, versions, speed of the scratch folder."""
    output:
        found=temp(f"{RESULTS}/cluster/{{partition}}.json"),
    log:
        f"{LOGS}/cluster/{{partition}}.log",
    benchmark:
        f"{BENCHMARKS}/cluster/{{partition}}.tsv"
    wildcard_constraints:
        partition="|".join(CLUSTER.partitions),
    conda:
        "../envs/train.yaml"
    resources:
        slurm_partition=lambda wc: wc.partition,
        gpu=lambda wc: min(1, CLUSTER.partitions[wc.partition].gpus),
        mem_mb=2000,
        runtime=5,
    message:
        "Look at partition {wildcards.partition}"
    shell:
        "python scripts/slurm_check.py look --partition {wildcards.partition} --gpus {resources.gpu}"
        " --scratch {resources.tmpdir:q} --out {output.found} > {log} 2>&1"


rule slurm_check:
    """Submit one tiny job a partition and print what they found."""
    input:
        expand(f"{RESULTS}/cluster/{{partition}}.json", partition=CLUSTER.partitions),
    output:
        report=temp(f"{RESULTS}/cluster/report.txt"),
    log:
        f"{LOGS}/cluster/show.log",
    benchmark:
        f"{BENCHMARKS}/cluster/show.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    message:
        "What each partition has"
    shell:
        "python scripts/slurm_check.py show {input} 2> {log} | tee {output.report}"
