# Raw samples of a checkpoint, and their scores. Sampling is expensive; scoring is cheap and can be repeated.

from srt.artefacts.specs import REVISION, grading_spec
from srt.cluster.resources import HOST_BASE_MB

# Limits of one comparison are not in `params`: raising them for a few answers would otherwise repeat labels, curricula
# and all training on them. `--forcerun score` grades again.
LIMITS = f" --timeout-s {CFG.scoring.timeout_s} --memory-mb {CFG.scoring.memory_mb}"


rule sample:
    """Draw n responses per problem of a suite from a checkpoint, and store them raw."""
    input:
        checkpoint=lambda wc: PATHS.checkpoint(wc.checkpoint),
        problems=sampled_problems,
    output:
        samples=PATHS.samples("{checkpoint}", "{suite}"),
    log:
        PATHS.log("sample/{checkpoint}/{suite}"),
    benchmark:
        PATHS.benchmark("sample/{checkpoint}/{suite}")
    priority: 1 if CFG.keep_models == "needed" else 0  # models wait for their samples, and are deleted then
    conda:
        "../envs/sample.yaml"
    threads: lambda wc: sampling_request(wc).cores
    resources:
        gpu=lambda wc: sampling_request(wc).gpus,
        mem_mb=lambda wc, attempt: CLUSTER.memory_mb(sampling_request(wc), attempt),
        runtime=lambda wc: sampling_request(wc).minutes,
    params:
        spec=lambda wc: model_suite_spec(CFG.checkpoint_model(wc.checkpoint), wc.suite),
    message:
        "Sample {wildcards.checkpoint} on {wildcards.suite}"
    shell:
        f"exec python {SCRIPTS}/sample.py"
        " --spec {params.spec:q}"
        " --checkpoint {input.checkpoint}"
        " --problems {input.problems}"
        " --out {output.samples}"
        " --gpus {resources.gpu}"
        " > {log} 2>&1"


rule score:
    """Grade raw samples: answer, vote and correctness per sample; majority and pass rate per problem."""
    input:
        samples=PATHS.samples("{checkpoint}", "{suite}"),
        problems=sampled_problems,
    output:
        scores=PATHS.scores("{checkpoint}", "{suite}"),
        groups=PATHS.groups("{checkpoint}", "{suite}"),
    log:
        PATHS.log("score/{checkpoint}/{suite}"),
    benchmark:
        PATHS.benchmark("score/{checkpoint}/{suite}")
    conda:
        "../envs/workflow.yaml"
    threads: CFG.scoring.workers  # no effect on results, so not in `params`
    resources:
        mem_mb=lambda wc, attempt: (HOST_BASE_MB + CFG.scoring.memory_mb * CFG.scoring.workers) * attempt,
        runtime=60,
    params:
        revision=REVISION["score"],
        options=lambda wc: grading_spec(CFG, wc.suite),
    message:
        "Score {wildcards.checkpoint} on {wildcards.suite}"
    shell:
        f"python {SCRIPTS}/score.py"
        " --samples {input.samples}"
        " --problems {input.problems}"
        " {params.options}"
        f"{LIMITS}"
        " --workers {threads}"
        " --scores {output.scores}"
        " --groups {output.groups}"
        " > {log} 2>&1"
