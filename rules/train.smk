# Training runs as chains of checkpoints: {run}/step-{n} is made from {run}/step-{n-k}, the data and one spec.
import json

from srt.artefacts.specs import train_spec
from srt.artefacts.training_inputs import previous_step, segment_inputs
from srt.cluster.resources import training_job

# Thousands of jobs share a few hundred specs and requests.
run_spec = cache(partial(train_spec, CFG))
run_request = cache(lambda run, steps: in_one_line(training_job, CFG, run, steps, CLUSTER))


def run_and_step(wc) -> tuple[str, int]:
    """The run, and the step at which the segment ends."""
    run, _, step = wc.checkpoint.rpartition("/step-")
    return run, int(step)


def start_step(wc) -> int:
    """The step that a segment starts from; 0 is where the run starts."""
    return in_one_line(previous_step, CFG, *run_and_step(wc))


def training_request(wc):
    """What a training job requests from the cluster."""
    run, step = run_and_step(wc)
    return run_request(run, step - start_step(wc))


def train_gpus(wc) -> int:
    """GPUs of a run's jobs, over all nodes."""
    return training_request(wc).gpus


def train_nodes(wc) -> int:
    """Nodes of a run's jobs: as few as hold its GPUs."""
    return CLUSTER.nodes(train_gpus(wc))


def train_gres(wc) -> str:
    """GPUs of each of several nodes. `gpu`, the job's total, serves one node only: its job step has just one."""
    nodes = train_nodes(wc)
    if train_gpus(wc) % nodes:
        raise WorkflowError(
            f"gpus_train={train_gpus(wc)} does not fill {nodes} nodes of {CLUSTER.gpus_per_node} GPUs evenly: "
            f"use a multiple of {nodes}, or correct gpus_per_node in partitions.yaml"
        )
    return f"gpu:{train_gpus(wc) // nodes}" if nodes > 1 else ""


def segment(wc, input, output, resources) -> str:
    """What scripts/train.py reads (`srt.training.segment.SegmentFile`), as JSON.

    Snakemake does not compare a param that is made from input, output or resources with that of earlier jobs.
    """
    run, step = run_and_step(wc)
    return canonical_json(
        {
            "spec": json.loads(run_spec(run)),
            "start": start_step(wc),
            "stop": step,
            "base": input.base,
            "resume": input.get("resume"),
            "data": {name: input.get(name) for name in ("problems", "subset", "labels", "preferences")},
            "work": PATHS.segment_progress(wc.checkpoint),
            "logs": PATHS.progress(run),
            "model_out": output.model,
            "state_out": output.state,
            "metrics_out": output.metrics,
            "save_every": CFG.save_every,
            "minutes": resources.runtime,
            "vllm_percent": resources.vllm_percent,
            "reference_offload": bool(resources.reference_offload),
            "engine_sleep": bool(resources.engine_sleep),
            "rollout_tensor_parallel": resources.rollout_tensor_parallel,
            # of an alarm that only rings: it changes what a log says, and no result
            "alarm": CFG.alarm.changed(),
        }
    )


# Inside its SLURM job a rule would also be retried, in the same memory and in what is left of the time.
RETRIES = 3 if is_controller(workflow) else 0
STATE = PATHS.segment_state("{checkpoint}")


ruleorder: train_last > train  # both make the last checkpoint of a run


rule train:
    """One segment of a run. What it saves on its way is in progress/, beside the outputs, and survives a kill."""
    input:
        unpack(lambda wc: in_one_line(segment_inputs, CFG, *run_and_step(wc))),
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
        mem_mb=lambda wc, attempt: CLUSTER.memory_mb(training_request(wc), attempt),
        runtime=lambda wc: training_request(wc).minutes,
    params:
        # compared: another spec or start trains again
        spec=lambda wc: run_spec(run_and_step(wc)[0]),
        start=start_step,
        # not compared, since they are made from outputs
        folder=lambda wc, output: PATHS.segment_progress(wc.checkpoint),
        segment=segment,
    message:
        "Train {wildcards.checkpoint}"
    shell:
        "mkdir -p {params.folder} && printf %s {params.segment:q} > {params.folder}/segment.json &&"
        " exec python scripts/launch.py"
        " --gpus {resources.gpu_total}"
        " --nodes {resources.nodes}"
        " -- scripts/train.py"
        " --segment {params.folder}/segment.json"
        " >> {log} 2>&1"


# The last state of a run stays, so that the run can be extended; an earlier one goes when the next segment is done.
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
            PATHS.segment_metrics(f"{wc.run}/step-{step}") for step in CFG.entry(wc.run).run.checkpoints
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
        "python scripts/join_metrics.py --segments {input.segments} --out {output.metrics} > {log} 2>&1"
