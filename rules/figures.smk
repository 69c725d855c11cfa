# Figures and tables: one job a figure, PDF + PNG + CSV, from exactly the runs that it shows.
FIGURE_SPECS = {name: resolve_figure(CFG, name) for name in CFG.figures}


rule figure:
    """Draw one figure from the scored groups and metrics of its runs."""
    input:
        lambda wc: FIGURE_SPECS[wc.figure][1],
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../workflow/report/{figure}.rst",
            category="Figures",
            labels={"figure": "{figure}", "format": "picture"},
        ),
        csv=report(
            f"{RESULTS}/figures/{{figure}}.csv",
            caption="../workflow/report/{figure}.rst",
            category="Figures",
            labels={"figure": "{figure}", "format": "numbers"},
        ),
    params:
        spec=lambda wc: canonical_json(FIGURE_SPECS[wc.figure][0]),
        prefix=lambda wc, output: output.pdf.removesuffix(".pdf"),
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{figure}}.tsv"
    message:
        "Figure {wildcards.figure}"
    resources:
        mem_mb=1500,
        runtime=15,
    conda:
        "../envs/figures.yaml"
    shell:
        "python scripts/figure.py --spec {params.spec:q} --out-prefix {params.prefix} > {log} 2>&1"


rule results_table:
    """One table of all evaluations, with intervals and the gain over the base model."""
    input:
        groups=sorted({file for row in evaluations(CFG) for file in row["groups"]}),
    output:
        csv=report(
            f"{RESULTS}/tables/results.csv",
            caption="../workflow/report/results.rst",
            category="Tables",
            labels={"table": "all evaluations"},
        ),
    params:
        spec=canonical_json(evaluations(CFG)),
    log:
        f"{LOGS}/tables/results.log",
    benchmark:
        f"{BENCHMARKS}/tables/results.tsv"
    message:
        "Table of all evaluations"
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../envs/figures.yaml"
    shell:
        "python scripts/results_table.py --spec {params.spec:q} --out {output.csv} > {log} 2>&1"
