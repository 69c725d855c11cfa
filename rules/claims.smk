# Verdicts on the paper's statements: supported, not supported or undecided (docs/claims.md).


from srt.report.first_page import verdict_summary
from srt.claims.resolve import resolve_claims

_claims, _claim_files = resolve_claims(CFG)
# workflow/report/workflow.rst can read nothing but the configuration
config["verdicts"] = verdict_summary(Path(PATHS.claims("csv"))) if CFG.claims else "The configuration has no claims."


rule claims:
    """The verdict on each claim, with numbers and intervals, as CSV, Markdown and HTML."""
    input:
        files=deferred(_claim_files),
        audit=[PATHS.clean_rows(), PATHS.pairs()],
    output:
        csv=report(
            PATHS.claims("csv"),
            caption="../workflow/report/claims.rst",
            category=SECTIONS["claims"],
            labels={"table": "verdicts", "format": "table"},
        ),
        html=report(
            PATHS.claims("html"),
            caption="../workflow/report/claims.rst",
            category=SECTIONS["claims"],
            labels={"table": "verdicts", "format": "page"},
        ),
        markdown=PATHS.claims("md"),
    log:
        PATHS.log("claims/claims"),
    benchmark:
        PATHS.benchmark("claims/claims")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=canonical_json(_claims),
        prefix=lambda wc, output: output.csv.removesuffix(".csv"),
    message:
        f"Verdicts on {len(CFG.claims)} claims"
    shell:
        f"python {SCRIPTS}/claims.py" " --spec {params.spec:q} --out-prefix {params.prefix} > {log} 2>&1"
