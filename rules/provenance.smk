# Provenance: versions, specs, hashes, seeds and fingerprints of everything that the report shows.
from srt.report.provenance import resolved_hash

PROVENANCE = {
    "config": resolved_hash(CFG.model_dump(mode="json")),
    "models": {m: PATHS.base_model(m) for m in CFG.models},
    "data": {d: PATHS.manifest(d) for d in CFG.datasets},
}
PROVENANCE["runs"] = {
    row["run"]: {
        "metrics": PATHS.run_metrics(row["run"]),
        "last": row["groups"][0],
    }
    for row in EVALUATIONS
    if row["run"] in GROUPS_OF_RUN and row["step"] == CFG.entry(row["run"]).run.checkpoints[-1]
}


rule provenance:
    """Versions, specs, hashes, seeds and fingerprints. Rows on environment and checkout vary: see the caption."""
    input:
        models=list(PROVENANCE["models"].values()),
        manifests=list(PROVENANCE["data"].values()),
        runs=[file for files in PROVENANCE["runs"].values() for file in files.values()],
    output:
        csv=report(
            PATHS.provenance(),
            caption="../workflow/report/provenance.rst",
            category=SECTIONS["provenance"],
            labels={"table": "versions, specs, hashes, seeds", "format": "numbers"},
        ),
    log:
        PATHS.log("provenance/provenance"),
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=canonical_json(PROVENANCE),
    message:
        "Provenance"
    shell:
        f"python {SCRIPTS}/provenance.py" " --spec {params.spec:q} --out {output.csv} > {log} 2>&1"
