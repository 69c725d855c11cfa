# Base models: trained from scratch (tiny), from a folder, or from the hub.


rule base_model:
    """Make a base model in Hugging Face format, with a fingerprint of its files."""
    output:
        model=directory(f"{RESULTS}/models/{{model}}"),
    params:
        spec=lambda wc: model_spec(CFG, wc.model),
    log:
        f"{LOGS}/models/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/models/{{model}}.tsv"
    message:
        "Base model {wildcards.model}"
    threads: lambda wc: getattr(CFG.models[wc.model], "threads", 1)
    resources:
        mem_mb=lambda wc: memory(wc.model, "sample"),
        runtime=120,
    conda:
        "../envs/train.yaml"
    shell:
        "python scripts/make_base.py --name {wildcards.model} --spec {params.spec:q}"
        " --out {output.model} > {log} 2>&1"
