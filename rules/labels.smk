# What is made from scored samples on a training set: a teacher's labels, its stored responses, and the easiest part.

from srt.artefacts.specs import preference_spec
from srt.artefacts.training_inputs import preferences_file

# The spec of each table of stored responses; several runs may share one.
PREFERENCES = {
    preferences_file(CFG, run): canonical_json(preference_spec(CFG, run))
    for run in RUNS
    if CFG.entry(run).run.uses_stored_responses
}
# File names round the fraction of a curriculum to four digits.
FRACTIONS = {f"{run.curriculum.fraction:.4f}": run.curriculum.fraction for run in CFG.runs.values() if run.curriculum}


rule labels:
    """Offline labels: the majority answer of a fixed teacher (a base model, or a step of a run) to each problem."""
    input:
        groups=lambda wc: PATHS.groups(wc.checkpoint, wc.suite),
    output:
        labels=PATHS.labels("{checkpoint}", "{suite}"),
    log:
        PATHS.log("labels/{checkpoint}/{suite}"),
    benchmark:
        PATHS.benchmark("labels/{checkpoint}/{suite}")
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    message:
        "Offline labels of {wildcards.checkpoint} for {wildcards.suite}"
    shell:
        f"python {SCRIPTS}/labels.py" " --groups {input.groups} --out {output.labels} > {log} 2>&1"


rule preferences:
    """Stored responses for SFT, DPO and ScPO, chosen by the votes of a teacher (a base model, or a step of a run)."""
    input:
        samples=lambda wc: PATHS.samples(wc.checkpoint, wc.suite),
        scores=lambda wc: PATHS.scores(wc.checkpoint, wc.suite),
    output:
        preferences=PATHS.preferences("{checkpoint}", "{suite}", "{part}"),
    log:
        PATHS.log("preferences/{checkpoint}/{suite}-{part}"),
    benchmark:
        PATHS.benchmark("preferences/{checkpoint}/{suite}-{part}")
    wildcard_constraints:
        part=r"(sft|pairs)-[^/]+-s\d+",
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        spec=lambda wc, output: PREFERENCES[output.preferences],
    message:
        "Stored responses of {wildcards.checkpoint} to {wildcards.suite}: {wildcards.part}"
    shell:
        f"python {SCRIPTS}/preferences.py"
        " --samples {input.samples}"
        " --scores {input.scores}"
        " --spec {params.spec:q}"
        " --out {output.preferences}"
        " > {log} 2>&1"


rule curriculum:
    """The easiest part of a training set, by pass rate or majority frequency of the base model."""
    input:
        groups=lambda wc: PATHS.groups(f"base/{wc.model}", wc.suite),
    output:
        subset=PATHS.subset("{model}", "{suite}", "{metric}", "{fraction}"),
    log:
        PATHS.log("curriculum/{model}/{suite}-{metric}-{fraction}"),
    benchmark:
        PATHS.benchmark("curriculum/{model}/{suite}-{metric}-{fraction}")
    wildcard_constraints:
        fraction=r"0\.\d+",
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        fraction=lambda wc: FRACTIONS.get(wc.fraction, float(wc.fraction)),
    message:
        "Easiest {wildcards.fraction} of {wildcards.suite} by {wildcards.metric} of {wildcards.model}"
    shell:
        f"python {SCRIPTS}/curriculum.py"
        " --groups {input.groups}"
        " --by {wildcards.metric}"
        " --fraction {params.fraction}"
        " --out {output.subset}"
        " > {log} 2>&1"
