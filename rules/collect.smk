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
        sorted({base_groups(r.model, s) for r in CFG.runs.values() for s in r.suites}),


rule all_labels:
    """All offline labels and curricula that runs need."""
    input:
        sorted(
            {f"{RESULTS}/labels/{r.model}/{r.data}.parquet" for r in CFG.runs.values() if r.reward == "offline_labels"}
            | {
                f"{RESULTS}/curriculum/{r.model}/{r.data}-{r.curriculum.by}-{r.curriculum.fraction:.4f}.parquet"
                for r in CFG.runs.values()
                if r.curriculum
            }
        ),


rule all_train:
    """All training runs to their last step."""
    input:
        expand(f"{RESULTS}/runs/{{run}}/metrics.parquet", run=RUNS),


rule all_eval:
    """All evaluations of all checkpoints."""
    input:
        sorted({file for row in evaluations(CFG) for file in row["groups"]}),


rule all_figures:
    """All figures."""
    input:
        expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=CFG.figures, suffix=["pdf", "png", "csv"]),


rule all_tables:
    """The table of all evaluations, and the metrics of all runs."""
    input:
        rules.results_table.output,
        rules.all_train.input,


for _name in RUNS:

    rule:
        """One run of one seed, to its last step, with all its evaluations."""
        name:
            _name.replace("-", "_")
        input:
            f"{RESULTS}/runs/{_name}/metrics.parquet",
            [f for row in evaluations(CFG) if row["run"] == _name for f in row["groups"]],
        localrule: True
