# Base models: trained from scratch (tiny), from a folder, or from the hub.
from srt.artefacts.specs import model_spec


rule base_model:
    """Make a base model in Hugging Face format, with a fingerprint of its files."""
    output:
        model=directory(PATHS.base_model("{model}")),
    log:
        PATHS.log("models/{model}"),
    benchmark:
        PATHS.benchmark("models/{model}")
    conda:
        "../envs/train.yaml"
    threads: lambda wc: getattr(CFG.models[wc.model], "threads", 1)
    resources:
        mem_mb=base_model_memory,
        runtime=120,
    params:
        spec=lambda wc: model_spec(CFG, wc.model),
    message:
        "Base model {wildcards.model}"
    shell:
        f"python {SCRIPTS}/make_base.py"
        " --name {wildcards.model}"
        " --spec {params.spec:q}"
        " --out {output.model}"
        " > {log} 2>&1"
