# Named targets without files: one per stage, one per figure, one per run.
from srt.artefacts.training_inputs import method_inputs


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
        expand(PATHS.problems("{dataset}"), dataset=CFG.datasets),


rule all_models:
    """All base models."""
    input:
        expand(PATHS.base_model("{model}"), model=CFG.models),


rule all_samples:
    """The base models' scored samples on every suite that they or their runs are evaluated on."""
    input:
        sorted(
            {
                PATHS.groups(f"base/{run.model}", stored_suite(CFG, run.model, suite))
                for run in CFG.runs.values()
                for suite in run.suites
            }
            | {PATHS.groups(f"{BASE}{one['model']}", one["stored"]) for one in EVALUATED}
        ),


rule all_labels:
    """All offline labels, stored responses and curricula that runs need."""
    input:
        sorted({file for run in RUNS for file in method_inputs(CFG, run).values()}),


rule all_train:
    """All training runs to their last step."""
    input:
        expand(PATHS.run_metrics("{run}"), run=RUNS),


rule all_eval:
    """All evaluations of all checkpoints."""
    input:
        deferred(GROUPS),


rule all_figures:
    """All figures."""
    input:
        expand(PATHS.figure("{figure}", "{suffix}"), figure=CFG.figures, suffix=["pdf", "png", "csv"]),


rule all_tables:
    """The table of all evaluations, the verdicts on claims, the data audit, costs, provenance, metrics of all runs."""
    input:
        rules.results_table.output,
        rules.evaluate.output if EVALUATED else [],
        rules.audit.output if RUNS else [],
        rules.decontaminated.output if RUNS else [],
        rules.provenance.output,
        rules.costs.output,
        rules.early_stopping.output if VALIDATED else [],
        rules.gradings.output if CFG.gradings else [],
        rules.claims.output if CFG.claims else [],
        rules.all_train.input,


rule all_browser:
    """The rollout pages of the first seed of every run, and their list."""
    input:
        rules.browser_list.output if RUNS else [],
        [PATHS.browser(page["run"]) for page in pages(CFG)],


for _name in RUNS:

    rule:
        """One run of one seed, to its last step, with all its evaluations."""
        name:
            _name.replace("-", "_")
        input:
            PATHS.run_metrics(_name),
            deferred(GROUPS_OF_RUN[_name]),
        localrule: True
