# Check of the cluster before the first run: one tiny job per partition (docs/cluster.md).


rule slurm_check_partition:
    """Inspect one partition with a job: GPUs, driver, versions, speed of the scratch folder."""
    output:
        found=temp(PATHS.partition("{partition}")),
    log:
        PATHS.log("cluster/{partition}"),
    benchmark:
        PATHS.benchmark("cluster/{partition}")
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
        "Inspect partition {wildcards.partition}"
    shell:
        f"python {SCRIPTS}/slurm_check.py"
        " look"
        " --partition {wildcards.partition}"
        " --gpus {resources.gpu}"
        " --scratch {resources.tmpdir:q}"
        " --out {output.found}"
        " > {log} 2>&1"


rule slurm_check:
    """Submit one tiny job per partition and print what they found."""
    input:
        expand(PATHS.partition("{partition}"), partition=CLUSTER.partitions),
    output:
        report=temp(PATHS.partition_report()),
    log:
        PATHS.log("cluster/show"),
    benchmark:
        PATHS.benchmark("cluster/show")
    localrule: True
    conda:
        "../envs/workflow.yaml"
    message:
        "Report on the partitions"
    shell:
        f"python {SCRIPTS}/slurm_check.py" " show {input} 2> {log} | tee {output.report}"
