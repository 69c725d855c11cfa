# Training runs as chains of checkpoints: step-{n} is made from step-{n-k}, the data and one spec.


# A run's last state stays, so that the run can be extended; earlier ones go when the next segment is done.
LAST = {i: CFG.entry(i)[1].checkpoints[-1] for i in RUNS}
STATE = f"{RESULTS}/runs/{{run}}/step-{{step}}/state"


rule train:
    """One segment of a run. Its own progress is in work/, beside the outputs, and survives a failed or killed job."""
    input:
        unpack(segment_inputs),
    output:
        model=directory(f"{RESULTS}/runs/{{run}}/step-{{step}}/model"),
        state=directory(STATE) if CFG.keep_states == "all" else temp(directory(STATE)),
        metrics=f"{RESULTS}/runs/{{run}}/step-{{step}}/metrics.parquet",
    log:
        f"{LOGS}/train/{{run}}/step-{{step}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{run}}/step-{{step}}.tsv"
    wildcard_constraints:
        run="|".join(rf"{run}(?!/step-{last}\b)" for run, last in LAST.items()),
    retries: RETRIES
    conda:
        "../envs/train.yaml"
    threads: lambda wc: CFG.entry(wc.run)[1].train.threads * max(1, train_gpus(wc))
    resources:
        gpu=lambda wc: train_gpus(wc) if train_nodes(wc) == 1 else 0,
        gres=train_gres,
        nodes=train_nodes,
        gpu_total=train_gpus,
        mem_mb=lambda wc, attempt: memory(CFG.entry(wc.run)[1].model, "train") * attempt,
        runtime=1380,
    params:
        spec=lambda wc: train_spec(CFG, wc.run),
        start=previous,
        options=segment_options,
        work=lambda wc: f"{RESULTS}/work/{wc.run}/step-{wc.step}",
    message:
        "Train {wildcards.run} to step {wildcards.step}"
    shell:
        "exec python scripts/launch.py --gpus {resources.gpu_total} --nodes {resources.nodes} --"
        " scripts/train.py --spec {params.spec:q} --base {input.base} --problems {input.problems}"
        " {params.options} --start {params.start} --stop {wildcards.step} --work {params.work}"
        f" --save-every {CFG.save_every}"
        " --minutes {resources.runtime} --model-out {output.model}"
        " --state-out {output.state} --metrics-out {output.metrics} >> {log} 2>&1"


use rule train as train_last with:
    output:
        model=directory(f"{RESULTS}/runs/{{run}}/step-{{step}}/model"),
        state=directory(STATE),
        metrics=f"{RESULTS}/runs/{{run}}/step-{{step}}/metrics.parquet",
    wildcard_constraints:
        run="|".join(rf"{run}(?=/step-{last}\b)" for run, last in LAST.items()),


rule run_metrics:
    """Join the metrics of a run's segments into one table (parquet, and CSV for people)."""
    input:
        segments=lambda wc: [
            f"{RESULTS}/runs/{wc.run}/step-{n}/metrics.parquet" for n in CFG.entry(wc.run)[1].checkpoints
        ],
    output:
        metrics=f"{RESULTS}/runs/{{run}}/metrics.parquet",
        csv=f"{RESULTS}/runs/{{run}}/metrics.csv",
    log:
        f"{LOGS}/run_metrics/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/run_metrics/{{run}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    message:
        "Metrics of {wildcards.run}"
    shell:
        "python scripts/join_metrics.py --segments {input.segments} --out {output.metrics} > {log} 2>&1"
