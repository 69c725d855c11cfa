# Training runs as chains of checkpoints: step-{n} is made from step-{n-k}, the data and one spec.


def previous(wc) -> int:
    """The step that a segment starts from; 0 is the base model."""
    run = CFG.entry(wc.run)[1]
    steps = [0, *run.checkpoints]
    if int(wc.step) not in steps[1:]:
        raise WorkflowError(
            f"run {wc.run} has no checkpoint at step {wc.step}: its steps are {', '.join(map(str, steps[1:]))}"
        )
    return steps[steps.index(int(wc.step)) - 1]


def segment_inputs(wc) -> dict:
    """Base model, problems, and what the method needs: the last state, labels, a subset."""
    run = CFG.entry(wc.run)[1]
    inputs = {
        "base": f"{RESULTS}/models/{run.model}",
        "problems": f"{RESULTS}/data/{run.data}.parquet",
    }
    if previous(wc):
        inputs["resume"] = f"{RESULTS}/runs/{wc.run}/step-{previous(wc)}/state"
    if run.reward == "offline_labels":
        inputs["labels"] = f"{RESULTS}/labels/{run.model}/{run.data}.parquet"
    if run.curriculum:
        part = f"{run.data}-{run.curriculum.by}-{run.curriculum.fraction:.4f}"
        inputs["subset"] = f"{RESULTS}/curriculum/{run.model}/{part}.parquet"
    return inputs


def segment_options(wc, input) -> str:
    """Command-line options for the inputs that only some methods have."""
    return " ".join(f"--{k} {input[k]}" for k in ("resume", "labels", "subset") if k in input.keys())


def train_gpus(wc) -> int:
    """GPUs of a run's jobs."""
    return CFG.models[CFG.entry(wc.run)[1].model].gpus_train


def launcher(wc) -> str:
    """python for one process, torchrun for several GPUs."""
    gpus = train_gpus(wc)
    return f"torchrun --standalone --nproc-per-node {gpus}" if gpus > 1 else "python"


STATE = directory(f"{RESULTS}/runs/{{run}}/step-{{step}}/state")


rule train:
    """One segment of a run. Its own progress is in work/, beside the outputs, and survives a failed or killed job."""
    input:
        unpack(segment_inputs),
    output:
        model=directory(f"{RESULTS}/runs/{{run}}/step-{{step}}/model"),
        state=STATE if CFG.keep_states == "all" else temp(STATE),
        metrics=f"{RESULTS}/runs/{{run}}/step-{{step}}/metrics.parquet",
    params:
        spec=lambda wc: train_spec(CFG, wc.run),
        start=previous,
        options=segment_options,
        launch=launcher,
        work=lambda wc: f"{RESULTS}/work/{wc.run}/step-{wc.step}",
        save_every=CFG.save_every,
    log:
        f"{LOGS}/train/{{run}}/step-{{step}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{run}}/step-{{step}}.tsv"
    message:
        "Train {wildcards.run} to step {wildcards.step}"
    threads: lambda wc: CFG.entry(wc.run)[1].train.threads * max(1, train_gpus(wc))
    resources:
        gpu=train_gpus,
        mem_mb=lambda wc: memory(CFG.entry(wc.run)[1].model, "train"),
        runtime=1380,
    retries: 3
    conda:
        "../envs/train.yaml"
    shell:
        "exec {params.launch} scripts/train.py --spec {params.spec:q} --base {input.base} --problems {input.problems}"
        " {params.options} --start {params.start} --stop {wildcards.step} --work {params.work}"
        " --save-every {params.save_every} --minutes {resources.runtime} --model-out {output.model}"
        " --state-out {output.state} --metrics-out {output.metrics} >> {log} 2>&1"


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
    message:
        "Metrics of {wildcards.run}"
    resources:
        mem_mb=1000,
        runtime=15,
    conda:
        "../envs/workflow.yaml"
    shell:
        "python scripts/join_metrics.py --segments {input.segments} --out {output.metrics} > {log} 2>&1"
