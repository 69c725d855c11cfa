# Rollout browser: one HTML file per run, readable offline (docs/browser.md).
from srt.browser.resolve import page_files, page_problems, page_spec, pages


rule browser:
    """The page of one run, with its stored responses before, during and after training."""
    input:
        files=lambda wc: page_files(CFG, wc.run),
        problems=lambda wc: page_problems(CFG, wc.run),
    output:
        PATHS.browser("{run}"),
    log:
        PATHS.log("browser/{run}"),
    benchmark:
        PATHS.benchmark("browser/{run}")
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=30,
    params:
        spec=lambda wc: canonical_json(page_spec(CFG, wc.run)),
    message:
        "Rollouts of {wildcards.run}"
    shell:
        f"python {SCRIPTS}/browser.py"
        " page"
        " --spec {params.spec:q}"
        " --problems {input.problems}"
        " --out {output}"
        " > {log} 2>&1"


rule browser_list:
    """The list of pages."""
    output:
        PATHS.browser("index"),
    log:
        PATHS.log("browser/index"),
    conda:
        "../envs/figures.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        spec=lambda wc: canonical_json(pages(CFG)),
    message:
        "List of rollout pages"
    shell:
        f"python {SCRIPTS}/browser.py" " list --spec {params.spec:q} --out {output} > {log} 2>&1"
