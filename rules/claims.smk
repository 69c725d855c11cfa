# The paper's statements against the tables of all runs: supported, not supported, undecided (docs/claims.md).


from srt.report.first_page import verdict_summary
from srt.claims.resolve import resolve_claims

_claims, _claim_files = resolve_claims(CFG)
# for workflow/report/workflow.rst, which sees the configuration and nothing else
config["verdicts"] = (
    verdict_summary(Path(RESULTS, "claims/claims.csv")) if CFG.claims else "The configuration has no claims."
)


rule claims:
    """The verdict on each claim, with numbers and intervals. One table: CSV, Markdown and HTML."""
    input:
        files=fixed(_claim_files),
    output:
        csv=report(
            f"{RESULTS}/claims/claims.csv",
            caption="../workflow/report/claims.rst",
            category=SECTIONS["claims"],
            labels={"table": "verdicts", "format": "table"},
        ),
        html=report(
            f"{RESULTS}/claims/claims.html",
            caption="../workflow/report/claims.rst",
            category=SECTIONS["claims"],
            labels={"table": "verdicts", "format": "page"},
        ),
        markdown=f"{RESULTS}/claims/claims.md",
    log:
        f"{LOGS}/claims/claims.log",
    benchmark:
        f"{BENCHMARKS}/claims/claims.tsv"
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
        "python scripts/claims.py --spec {params.spec:q} --out-prefix {params.prefix} > {log} 2>&1"
