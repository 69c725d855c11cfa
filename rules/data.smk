# Problem tables: generated, from a file, or from the hub; one schema (docs/data.md).

from srt.artefacts.specs import data_content, data_revision, data_spec

# The folder of local files is not in `params`, since it has no effect on the tables; the content of the files is.
LOCAL_DIR = f" --local-dir {CFG.local_dir}" if CFG.local_dir else ""


rule data:
    """Make the problem table of one data set, with its manifest (counts, dropped rows, fingerprint)."""
    output:
        problems=PATHS.problems("{dataset}"),
        manifest=PATHS.manifest("{dataset}"),
    log:
        PATHS.log("data/{dataset}"),
    benchmark:
        PATHS.benchmark("data/{dataset}")
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=1500,
        runtime=60,
    params:
        spec=lambda wc: data_spec(CFG, wc.dataset),
        revision=lambda wc: data_revision(CFG, wc.dataset),
        content=lambda wc: data_content(CFG, wc.dataset),
    message:
        "Data set {wildcards.dataset}"
    shell:
        f"python {SCRIPTS}/make_data.py"
        " --name {wildcards.dataset}"
        " --spec {params.spec:q}"
        f"{LOCAL_DIR}"
        " --out {output.problems}"
        " --manifest {output.manifest}"
        " > {log} 2>&1"
