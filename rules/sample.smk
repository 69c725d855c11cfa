# Raw samples of a checkpoint, and their scores. Sampling is paid once; scoring is cheap and done again at will.

# Limits of one comparison are no parameter that Snakemake compares: raised for a few answers, they would make labels and
# curricula again, and so all training on them. `--forcerun score` grades again.
LIMITS = f" --timeout-s {CFG.scoring.timeout_s} --memory-mb {CFG.scoring.memory_mb}"


rule sample:
    """Draw n responses a problem of a suite from a checkpoint and store them raw."""
    input:
        checkpoint=lambda wc: checkpoint_dir(wc.checkpoint),
        problems=lambda wc: problem_files(wc.suite),
    output:
        samples=f"{RESULTS}/eval/{{checkpoint}}/{{suite}}.samples.parquet",
    log:
        f"{LOGS}/sample/{{checkpoint}}/{{suite}}.log",
    benchmark:
        f"{BENCHMARKS}/sample/{{checkpoint}}/{{suite}}.tsv"
    conda:
        "../envs/sample.yaml"
    threads: lambda wc: sampling_request(wc).cores
    resources:
        gpu=lambda wc: sampling_request(wc).gpus,
        mem_mb=lambda wc, attempt: CLUSTER.memory_mb(sampling_request(wc), attempt),
        runtime=lambda wc: sampling_request(wc).minutes,
    params:
        spec=lambda wc: suite_spec(checkpoint_model(wc.checkpoint), wc.suite),
    message:
        "Sample {wildcards.checkpoint} on {wildcards.suite}"
    shell:
        "exec python scripts/sample.py --spec {params.spec:q} --checkpoint {input.checkpoint}"
        " --problems {input.problems} --out {output.samples} > {log} 2>&1"


rule score:
    """Grade raw samples: answers, votes, correctness a sample; majority, pass rate a problem."""
    input:
        samples=f"{RESULTS}/eval/{{checkpoint}}/{{suite}}.samples.parquet",
        problems=lambda wc: problem_files(wc.suite),
    output:
        scores=f"{RESULTS}/eval/{{checkpoint}}/{{suite}}.scores.parquet",
        groups=f"{RESULTS}/eval/{{checkpoint}}/{{suite}}.groups.parquet",
    log:
        f"{LOGS}/score/{{checkpoint}}/{{suite}}.log",
    benchmark:
        f"{BENCHMARKS}/score/{{checkpoint}}/{{suite}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: CFG.scoring.workers  # changes no result, so it is no parameter that Snakemake compares
    resources:
        mem_mb=lambda wc, attempt: (HOST_BASE_MB + CFG.scoring.memory_mb * CFG.scoring.workers) * attempt,
        runtime=60,
    params:
        revision=REVISION["score"],
        options=f"--preset {CFG.scoring.preset} --extractor {CFG.scoring.extractor}",
    message:
        "Score {wildcards.checkpoint} on {wildcards.suite}"
    shell:
        "python scripts/score.py --samples {input.samples} --problems {input.problems} {params.options}"
        f"{LIMITS}"
        " --workers {threads} --scores {output.scores} --groups {output.groups} > {log} 2>&1"
