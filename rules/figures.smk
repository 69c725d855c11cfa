# Figures and tables. Each figure has a rule of its name (`snakemake fig2`), which writes PDF, PNG and CSV.

from srt.config import read_yaml
from srt.figures.resolve import resolve_figure
from srt.report.first_page import figure_label

# captions can read nothing but the configuration
config["captions"] = read_yaml(ROOT / "workflow/report/shared.yaml")


for _name in CFG.figures:
    _spec, _inputs = resolve_figure(CFG, _name)
    _label = figure_label(_name, CFG.figures[_name].title)

    rule:
        """One figure from the runs that it names; its caption is in workflow/report/."""
        name:
            _name
        input:
            files=deferred(_inputs),
        output:
            pdf=PATHS.figure(_name, "pdf"),
            png=report(
                PATHS.figure(_name, "png"),
                caption=figure_caption(_name),
                category=SECTIONS["figures"],
                labels={"figure": _label, "format": "picture"},
            ),
            csv=report(
                PATHS.figure(_name, "csv"),
                caption=figure_caption(_name),
                category=SECTIONS["figures"],
                labels={"figure": _label, "format": "table"},
            ),
        log:
            PATHS.log(f"figures/{_name}"),
        benchmark:
            PATHS.benchmark(f"figures/{_name}")
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
            f"python {SCRIPTS}/figure.py" " --spec {params.spec:q} --out-prefix {params.prefix} > {log} 2>&1"

    for _alias in CFG.figures[_name].aliases:

        rule:
            """A figure by its number in the other version of the paper."""
            name:
                _alias
            input:
                [PATHS.figure(_name, suffix) for suffix in ("pdf", "png", "csv")],
            localrule: True


rule results_table:
    """One table of all evaluations, with intervals and the gain over the base model."""
    input:
        groups=deferred(GROUPS),
    output:
        csv=report(
            PATHS.table("results"),
            caption="../workflow/report/results.rst",
            category=SECTIONS["runs"],
            labels={"table": "all evaluations"},
        ),
    log:
        PATHS.log("tables/results"),
    benchmark:
        PATHS.benchmark("tables/results")
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
        f"python {SCRIPTS}/results_table.py" " --spec {params.spec:q} --out {output.csv} > {log} 2>&1"
