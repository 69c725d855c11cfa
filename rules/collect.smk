# Named targets: one for each stage, one for each figure, one for each run. None of them makes a file.
localrules:
    all,
    all_data,
    all_models,
    all_samples,
    all_labels,
    all_train,
    all_eval,
    all_figures,
    all_tables,
    all_browser,


rule all_data:
    """All problem tables."""
    input:
        expand(f"{RESULTS}/data/{{dataset}}.parquet", dataset=CFG.datasets),


rule all_models:
    """All base models."""
    input:
        expand(f"{RESULTS}/models/{{model}}", model=CFG.models),


rule all_samples:
    """The base models' scored samples on every suite that their runs are evaluated on."""
    input:
        sorted({groups_of(f"base/{r.model}", s) for r in CFG.runs.values() for s in r.suites}),


rule all_labels:
    """All offline labels, stored responses and curricula that runs need."""
    input:
        sorted(
            {labels_file(i) for i in RUNS if CFG.entry(i)[1].uses_labels}
            | {subset_file(r) for r in CFG.runs.values() if r.curriculum}
            | {f"{RESULTS}/{preference_file(CFG, i)}" for i in offline_runs(CFG)}
        ),


rule all_train:
    """All training runs to their last step."""
    input:
        expand(f"{RESULTS}/runs/{{run}}/metrics.parquet", run=RUNS),


rule all_eval:
    """All evaluations of all checkpoints."""
    input:
        fixed(GROUPS),


rule all_figures:
    """All figures."""
    input:
        expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=CFG.figures, suffix=["pdf", "png", "csv"]),


rule all_tables:
    """The table of all evaluations, the verdicts on claims, the data audit, costs, provenance, metrics of all runs."""
    input:
        rules.results_table.output,
        rules.audit.output,
        rules.decontaminated.output,
        rules.provenance.output,
        rules.costs.output,
        rules.early_stopping.output if VALIDATED else [],
        rules.claims.output if CFG.claims else [],
        rules.all_train.input,


rule all_browser:
    """The rollout pages of all runs, of the first seed of each, and their list."""
    input:
        rules.browser_list.output,
        [f"{RESULTS}/browser/{page['file']}" for page in pages(CFG)],


for _name in RUNS:

    rule:
        """One run of one seed, to its last step, with all its evaluations."""
        name:
            _name.replace("-", "_")
        input:
            f"{RESULTS}/runs/{_name}/metrics.parquet",
            fixed(GROUPS_OF_RUN[_name]),
        localrule: True
