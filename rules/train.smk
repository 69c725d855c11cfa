# Training runs as chains of checkpoints: step-{n} is made from step-{n-k}, the data and one spec.


# A run's last state stays, so that the run can be extended; earlier ones go when the next segment is done.
LAST = {i: CFG.entry(i)[1].checkpoints[-1] for i in RUNS}
STATE = f"{RESULTS}/runs/{{run}}/step-{{step}}/state"


rule train:
    """One segment of a run. What it saves on its way is in progress/, beside the outputs, and survives a kill."""
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
        run=runs_pattern({run: rf"(?!/step-{last}\b)" for run, last in LAST.items()}),
    retries: RETRIES
    conda:
        "../envs/train.yaml"
    threads: lambda wc: training_request(wc).cores
    resources:
        gpu=lambda wc: train_gpus(wc) if train_nodes(wc) == 1 else 0,
        gres=train_gres,
        nodes=train_nodes,
        gpu_total=train_gpus,
        vllm_percent=lambda wc: training_request(wc).vllm_percent,
        reference_offload=lambda wc: int(training_request(wc).reference_offload),
        engine_sleep=lambda wc: int(training_request(wc).engine_sleep),
        rollout_tensor_parallel=lambda wc: training_request(wc).rollout_tensor_parallel,
        mem_mb=lambda wc, attempt: CLUSTER.memory_mb(training_request(wc), attempt),
        runtime=lambda wc: training_request(wc).minutes,
    params:
        spec=lambda wc: run_spec(wc.run),
        start=previous,
        options=segment_options,
    message:
        "Train {wildcards.run} to step {wildcards.step}"
    shell:
        "exec python scripts/launch.py --gpus {resources.gpu_total} --nodes {resources.nodes} --"
        " scripts/train.py --spec {params.spec:q} --base {input.base} --problems {input.problems}"
        " {params.options} --start {params.start} --stop {wildcards.step}"
        f" --work {RESULTS}/progress/{{wildcards.run}}/step-{{wildcards.step}} --save-every {CFG.save_every}"
        f" --logs {RESULTS}/progress/{{wildcards.run}}"
        " --minutes {resources.runtime} --vllm-memory 0.{resources.vllm_percent} --model-out {output.model}"
        " --reference-offload {resources.reference_offload} --engine-sleep {resources.engine_sleep}"
        " --tensor-parallel {resources.rollout_tensor_parallel}"
        f"{ALARM}"
        " --state-out {output.state} --metrics-out {output.metrics} >> {log} 2>&1"


use rule train as train_last with:
    output:
        model=directory(f"{RESULTS}/runs/{{run}}/step-{{step}}/model"),
        state=directory(STATE),
        metrics=f"{RESULTS}/runs/{{run}}/step-{{step}}/metrics.parquet",
    wildcard_constraints:
        run=runs_pattern({run: rf"(?=/step-{last}\b)" for run, last in LAST.items()}),


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
