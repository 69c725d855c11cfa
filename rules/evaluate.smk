# Models without a training run: table and figure of the key `evaluate` (docs/evaluate.md).
from srt.artefacts.evaluations import BASE

EVALUATED = EVALUATION_SPEC.get("evaluate", [])


rule evaluate:
    """avg@n, maj@k and pass@k of the models in `evaluate`, as table and figure."""
    input:
        groups=deferred([PATHS.groups(f"{BASE}{one['model']}", one["stored"]) for one in EVALUATED]),
        scores=deferred([PATHS.scores(f"{BASE}{one['model']}", one["stored"]) for one in EVALUATED]),
    output:
        csv=report(
            PATHS.table("evaluate"),
            caption="../workflow/report/evaluate.rst",
            category=SECTIONS["figures"],
            labels={"figure": "Evaluated models", "format": "table"},
        ),
        png=report(
            PATHS.figure("evaluate", "png"),
            caption="../workflow/report/evaluate.rst",
            category=SECTIONS["figures"],
            labels={"figure": "Evaluated models", "format": "picture"},
        ),
        markdown=PATHS.table("evaluate", "md"),
        pdf=PATHS.figure("evaluate", "pdf"),
    log:
        PATHS.log("tables/evaluate"),
    benchmark:
        PATHS.benchmark("tables/evaluate")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        spec=canonical_json(
            {"results": CFG.results, "evaluate": EVALUATED, "k": CFG.evaluate.k if CFG.evaluate else None}
        ),
        table=lambda wc, output: output.csv.removesuffix(".csv"),
        figure=lambda wc, output: output.pdf.removesuffix(".pdf"),
    message:
        "Table and figure of the evaluated models"
    shell:
        f"python {SCRIPTS}/evaluate.py"
        " --spec {params.spec:q}"
        " --out-table {params.table}"
        " --out-figure {params.figure}"
        " > {log} 2>&1"
