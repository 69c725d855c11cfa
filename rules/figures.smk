# Figures and tables: one rule a figure, named like it (`snakemake fig2`): PDF + PNG + CSV from the runs that it shows.


for _name in CFG.figures:
    _spec, _inputs = resolve_figure(CFG, _name)
    _prefix = f"{RESULTS}/figures/{_name}"

    rule:
        """One figure from the runs that it names; its caption is in workflow/report/."""
        name:
            _name
        input:
            files=fixed(_inputs),
        output:
            pdf=f"{_prefix}.pdf",
            png=report(
                f"{_prefix}.png",
                caption=figure_caption(_name),
                category=SECTIONS["figures"],
                labels={"figure": _name, "format": "picture"},
            ),
            csv=report(
                f"{_prefix}.csv",
                caption=figure_caption(_name),
                category=SECTIONS["figures"],
                labels={"figure": _name, "format": "numbers"},
            ),
        log:
            f"{LOGS}/figures/{_name}.log",
        benchmark:
            f"{BENCHMARKS}/figures/{_name}.tsv"
        conda:
            "../envs/figures.yaml"
        resources:
            mem_mb=1500,
            runtime=15,
        params:
            spec=canonical_json(_spec),
            prefix=lambda wc, output: output.pdf.removesuffix(".pdf"),
        message:
            f"Figure {_name}: {CFG.figures[_name].title}"
        shell:
            "python scripts/figure.py --spec {params.spec:q} --out-prefix {params.prefix} > {log} 2>&1"

    for _alias in CFG.figures[_name].aliases:

        rule:
            """A figure by its number in the other version of the paper."""
            name:
                _alias
            input:
                multiext(_prefix, ".pdf", ".png", ".csv"),
            localrule: True


rule results_table:
    """One table of all evaluations, with intervals and the gain over the base model."""
    input:
        groups=fixed(GROUPS),
    output:
        csv=report(
            f"{RESULTS}/tables/results.csv",
            caption="../workflow/report/results.rst",
            category=SECTIONS["runs"],
            labels={"table": "all evaluations"},
        ),
    log:
        f"{LOGS}/tables/results.log",
    benchmark:
        f"{BENCHMARKS}/tables/results.tsv"
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=canonical_json(EVALUATION_SPEC),
    message:
        "Table of all evaluations"
    shell:
        "python scripts/results_table.py --spec {params.spec:q} --out {output.csv} > {log} 2>&1"
