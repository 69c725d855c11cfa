# Contamination audit: test questions that are also in a training set, and results without them (docs/data.md).
from srt.audit.resolve import REVISION as AUDIT_REVISION
from srt.audit.resolve import audit_spec, audited_sets

AUDITED = audited_sets(CFG)
AUDITED_DATASETS = list(dict.fromkeys([*AUDITED["train"], *AUDITED["test"]]))


rule audit:
    """Compare every training set with every test set: exact and near matches, faulty rows, clean test rows."""
    input:
        problems=[PATHS.problems(dataset) for dataset in AUDITED_DATASETS],
        manifests=[PATHS.manifest(dataset) for dataset in AUDITED_DATASETS],
    output:
        overlap=report(
            PATHS.audit("overlap.csv"),
            caption="../workflow/report/audit.rst",
            category=SECTIONS["data"],
            labels={"table": "overlap of training and test sets", "format": "numbers"},
        ),
        picture=report(
            PATHS.audit("overlap.png"),
            caption="../workflow/report/audit.rst",
            category=SECTIONS["data"],
            labels={"table": "overlap of training and test sets", "format": "picture"},
        ),
        pairs=report(
            PATHS.audit("pairs.csv"),
            caption="../workflow/report/audit_pairs.rst",
            category=SECTIONS["data"],
            labels={"table": "pairs of a test and a training question", "format": "numbers"},
        ),
        faults=report(
            PATHS.audit("faults.csv"),
            caption="../workflow/report/audit_faults.rst",
            category=SECTIONS["data"],
            labels={"table": "faulty and repeated rows", "format": "numbers"},
        ),
        clean=PATHS.clean_rows(),
        more=[PATHS.audit(file) for file in ("overlap.pdf", "overlap.parquet", "pairs.parquet")],
    log:
        PATHS.log("audit/audit"),
    benchmark:
        PATHS.benchmark("audit/audit")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        revision=AUDIT_REVISION,
        train=" ".join(AUDITED["train"]),
        test=" ".join(AUDITED["test"]),
        generated=f"--generated {' '.join(AUDITED['generated'])}" if AUDITED["generated"] else "",
        folder=subpath(output.overlap, parent=True),
    message:
        "Contamination audit"
    shell:
        f"python {SCRIPTS}/audit.py"
        " overlap"
        " --problems {input.problems}"
        " --train {params.train}"
        " --test {params.test}"
        " {params.generated}"
        " --out {params.folder}"
        " > {log} 2>&1"


rule decontaminated:
    """The table of all evaluations, only on test questions that the run was not trained on."""
    input:
        groups=deferred(sorted({file for files in GROUPS_OF_RUN.values() for file in files})),
        clean=rules.audit.output.clean,
    output:
        csv=report(
            PATHS.table("decontaminated"),
            caption="../workflow/report/decontaminated.rst",
            category=SECTIONS["data"],
            labels={"table": "all evaluations, decontaminated", "format": "numbers"},
        ),
    log:
        PATHS.log("tables/decontaminated"),
    benchmark:
        PATHS.benchmark("tables/decontaminated")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        revision=AUDIT_REVISION,
        spec=canonical_json(audit_spec(CFG)),
    message:
        "Table of all evaluations, decontaminated"
    shell:
        f"python {SCRIPTS}/audit.py"
        " results"
        " --spec {params.spec:q}"
        " --clean {input.clean}"
        " --out {output.csv}"
        " > {log} 2>&1"
