# Training runs as chains of checkpoints: step-{n} is made from step-{n-k}, the data and one spec.

from srt.artefacts.specs import train_spec
from srt.artefacts.training_inputs import previous_step, segment_inputs
from srt.cluster.resources import training_job

# Thousands of jobs share a few hundred specs and requests.
run_spec = cache(partial(train_spec, CFG))
run_request = cache(lambda run, steps: in_one_line(training_job, CFG, run, steps, CLUSTER))


def segment_start(wc) -> int:
    """The step that a segment starts from; 0 is where the run starts."""
    return in_one_line(previous_step, CFG, wc.run, int(wc.step))


def training_request(wc):
    """What a training job requests from the cluster."""
    return run_request(wc.run, int(wc.step) - segment_start(wc))


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


# Inputs that only some runs have, or only segments after the first.
OPTIONAL_INPUTS = ("resume", "labels", "preferences", "subset")


def segment_files(wc) -> dict:
    """The inputs of a segment by name; those that it does not have are empty."""
    files = in_one_line(segment_inputs, CFG, wc.run, int(wc.step))
    return files | {name: [] for name in OPTIONAL_INPUTS if name not in files}


def segment_options(wc, input) -> str:
    """The optional inputs as one text. The command has them from `input`; Snakemake compares this param with that of
    the results there are, and a change would train them all again."""
    return " ".join(f"--{name} {input[name]}" for name in OPTIONAL_INPUTS if input[name])


# The rule of an alarm that only rings: what differs from the default. It changes what a log says, and no result.
ALARM = canonical_json(CFG.alarm.changed())
# Inside its SLURM job a rule would also be retried, in the same memory and in what is left of the time.
RETRIES = 3 if is_controller(workflow) else 0
# A run's last state stays, so that the run can be extended; earlier ones go when the next segment is done.
LAST = {run: CFG.entry(run).run.checkpoints[-1] for run in RUNS}
STATE = PATHS.segment_state("{run}", "{step}")


rule train:
    """One segment of a run. What it saves on its way is in progress/, beside the outputs, and survives a kill."""
    input:
        unpack(segment_files),
    output:
        model=directory(PATHS.segment_model("{run}", "{step}")),
        state=directory(STATE) if CFG.keep_states == "all" else temp(directory(STATE)),
        metrics=PATHS.segment_metrics("{run}", "{step}"),
    log:
        PATHS.log("train/{run}/step-{step}"),
    benchmark:
        PATHS.benchmark("train/{run}/step-{step}")
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
        start=segment_start,
        options=segment_options,
    message:
        "Train {wildcards.run} to step {wildcards.step}"
    shell:
        f"progress={PATHS.progress('{wildcards.run}')}" """
        work=$progress/step-{wildcards.step}
        mkdir -p $work
        printf %s '{{
            "spec": '{params.spec:q}',
            "base": "{input.base}",
            "start": {params.start},
            "stop": {wildcards.step},
            "resume": "{input.resume}",
            "data": {{
                "problems": "{input.problems}",
                "subset": "{input.subset}",
                "labels": "{input.labels}",
                "preferences": "{input.preferences}"
            }},
            "work": "'$work'",
            "logs": "'$progress'",
            "model_out": "{output.model}",
            "state_out": "{output.state}",
            "metrics_out": "{output.metrics}",
            "save_every": {CFG.save_every},
            "minutes": {resources.runtime},
            "vllm_percent": {resources.vllm_percent},
            "reference_offload": {resources.reference_offload},
            "engine_sleep": {resources.engine_sleep},
            "rollout_tensor_parallel": {resources.rollout_tensor_parallel},
            "alarm": {ALARM}
        }}' > $work/segment.json
        exec python scripts/launch.py --gpus {resources.gpu_total} --nodes {resources.nodes} -- \
            scripts/train.py --segment $work/segment.json >> {log} 2>&1
        """


use rule train as train_last with:
    output:
        model=directory(PATHS.segment_model("{run}", "{step}")),
        state=directory(STATE),
        metrics=PATHS.segment_metrics("{run}", "{step}"),
    wildcard_constraints:
        run=runs_pattern({run: rf"(?=/step-{last}\b)" for run, last in LAST.items()}),


rule run_metrics:
    """Join the metrics of a run's segments into one table (parquet, and CSV for people)."""
    input:
        segments=lambda wc: [PATHS.segment_metrics(wc.run, step) for step in CFG.entry(wc.run).run.checkpoints],
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
