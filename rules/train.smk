# Training runs as chains of checkpoints: {run}/step-{n} is made from {run}/step-{n-k}, the data and one spec.
from srt.artefacts.training_inputs import segment_inputs
from srt.config.runs import checkpoint_at

# Not inside a SLURM job: there the rule would be retried with the same memory, in the time that is left.
RETRIES = 3 if CONTROLLER else 0
STATE = PATHS.segment_state("{checkpoint}")


ruleorder: train_last > train  # both make the last checkpoint of a run


rule train:
    """One segment of a run. It saves its progress outside its outputs, in progress/, where it survives a kill."""
    input:
        unpack(lambda wc: in_one_line(segment_inputs, CFG, *run_and_step(wc.checkpoint))),
    output:
        model=directory(PATHS.segment_model("{checkpoint}")),
        state=directory(STATE) if CFG.keep_states == "all" else temp(directory(STATE)),
        metrics=PATHS.segment_metrics("{checkpoint}"),
    log:
        PATHS.log("train/{checkpoint}"),
    benchmark:
        PATHS.benchmark("train/{checkpoint}")
    wildcard_constraints:
        checkpoint=rf"(?:{RUN_PATTERN})/step-\d+",
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
        activation_mb=lambda wc: training_request(wc).activation_mb,
        mem_mb=lambda wc, attempt: CLUSTER.memory_mb(training_request(wc), attempt),
        runtime=lambda wc: training_request(wc).minutes,
    params:
        # compared by Snakemake: a changed spec or start trains again
        spec=lambda wc: run_spec(run_and_step(wc.checkpoint)[0]),
        start=start_step,
        # not compared, since they are made from outputs
        folder=lambda wc, output: PATHS.segment_progress(wc.checkpoint),
        segment=segment,
    message:
        "Train {wildcards.checkpoint}"
    shell:
        "mkdir -p {params.folder} && printf %s {params.segment:q} > {params.folder}/segment.json &&"
        f" exec python {SCRIPTS}/launch.py"
        " --gpus {resources.gpu_total}"
        " --nodes {resources.nodes}"
        f" -- {SCRIPTS}/train.py"
        " --segment {params.folder}/segment.json"
        " >> {log} 2>&1"


# The last state of a run is kept, so that the run can be extended; earlier ones are deleted after the next segment.
use rule train as train_last with:
    output:
        model=directory(PATHS.segment_model("{checkpoint}")),
        state=directory(STATE),
        metrics=PATHS.segment_metrics("{checkpoint}"),
    wildcard_constraints:
        checkpoint=checkpoints_pattern({run: CFG.entry(run).run.checkpoints[-1] for run in RUNS}),


rule run_metrics:
    """Join the metrics of a run's segments into one table (parquet, and CSV for people)."""
    input:
        segments=lambda wc: [
            PATHS.segment_metrics(checkpoint_at(wc.run, step)) for step in CFG.entry(wc.run).run.checkpoints
        ],
    output:
        metrics=PATHS.run_metrics("{run}"),
        csv=PATHS.run_metrics_csv("{run}"),
    log:
        PATHS.log("run_metrics/{run}"),
    benchmark:
        PATHS.benchmark("run_metrics/{run}")
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    message:
        "Metrics of {wildcards.run}"
    shell:
        f"python {SCRIPTS}/join_metrics.py" " --segments {input.segments} --out {output.metrics} > {log} 2>&1"
