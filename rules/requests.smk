# What jobs read and request, as functions of their wildcards; the rules are in the files of their stages.
import json

from srt.artefacts.specs import sample_spec, train_spec
from srt.artefacts.training_inputs import previous_step, suite_problems
from srt.cluster.resources import HOST_BASE_MB, sampling_job, training_job
from srt.config.runs import run_and_step
from srt.cost.shapes import shape_of_model

# Thousands of jobs share a few hundred specs and requests.
model_suite_spec = cache(partial(sample_spec, CFG))
model_suite_request = cache(lambda model, suite: in_one_line(sampling_job, CFG, model, suite, CLUSTER))
run_spec = cache(partial(train_spec, CFG))
run_request = cache(lambda run, steps: in_one_line(training_job, CFG, run, steps, CLUSTER))


def base_model_memory(wc, attempt: int) -> int:
    """Memory in MB: for three copies of the weights in float32, unless the job only copies files."""
    entry = CFG.models[wc.model]
    weights = 0 if entry.source in ("hub", "local") else shape_of_model(entry).total
    return int(HOST_BASE_MB + weights * 4 * 3 / 1e6) * attempt


def sampled_problems(wc) -> list:
    """The problem tables of a suite; samples of other settings than the configuration's are kept but not made."""
    suite, name = wc.suite.partition(SETTINGS_MARK)[0], CFG.checkpoint_model(wc.checkpoint)
    if (stored := in_one_line(stored_suite, CFG, name, suite)) != wc.suite:
        raise WorkflowError(
            f"{PATHS.evaluation(wc.checkpoint, wc.suite)} has other settings: this configuration's are {stored}"
        )
    return suite_problems(CFG, suite)


def sampling_request(wc):
    """What a sampling job requests from the cluster."""
    return model_suite_request(CFG.checkpoint_model(wc.checkpoint), wc.suite)


def start_step(wc) -> int:
    """The step that a segment starts from; 0 is the start of the run."""
    return in_one_line(previous_step, CFG, *run_and_step(wc.checkpoint))


def training_request(wc):
    """What a training job requests from the cluster."""
    run, step = run_and_step(wc.checkpoint)
    return run_request(run, step - start_step(wc))


def train_gpus(wc) -> int:
    """GPUs of a run's jobs, over all nodes."""
    return training_request(wc).gpus


def train_nodes(wc) -> int:
    """Nodes of a run's jobs: as few as hold its GPUs."""
    return CLUSTER.nodes(train_gpus(wc))


def train_gres(wc) -> str | None:
    """GPUs per node of a job on several nodes; on one node `gpu` requests them, since its job step has one node.

    None leaves the resource out: Snakemake groups only jobs that agree in a resource that is a text.
    """
    nodes = train_nodes(wc)
    if train_gpus(wc) % nodes:
        raise WorkflowError(
            f"gpus_train={train_gpus(wc)} does not fill {nodes} nodes of {CLUSTER.gpus_per_node} GPUs evenly: "
            f"use a multiple of {nodes}, or correct gpus_per_node in partitions.yaml"
        )
    return f"gpu:{train_gpus(wc) // nodes}" if nodes > 1 else None


def segment(wc, input, output, resources) -> str:
    """What scripts/train.py reads (`srt.training.segment.SegmentFile`), as JSON.

    Snakemake does not compare a param that is made from input, output or resources with that of earlier jobs.
    """
    run, step = run_and_step(wc.checkpoint)
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
            "trackers": CFG.entry(run).run.train.trackers,
            "model_out": output.model,
            "state_out": output.state,
            "metrics_out": output.metrics,
            "save_every": CFG.save_every,
            "minutes": resources.runtime,
            "vllm_percent": resources.vllm_percent,
            "reference_offload": bool(resources.reference_offload),
            "engine_sleep": bool(resources.engine_sleep),
            "rollout_tensor_parallel": resources.rollout_tensor_parallel,
            "activation_mb": resources.activation_mb,
            # thresholds of an alarm that only writes to the log: no effect on results
            "alarm": CFG.alarm.changed(),
        }
    )


def figure_caption(name: str) -> str:
    """The caption file of a figure, for the report; a general one for figures that have none of their own."""
    caption = f"workflow/report/{name}.rst"
    return f"../{caption}" if (ROOT / caption).is_file() else "../workflow/report/figure.rst"
