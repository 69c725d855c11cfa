"""The workflow, from data to figures: one file of rules per stage, in the order of the DAG; targets in collect.smk."""

from os.path import exists

from snakemake.utils import min_version

min_version("9.27")


# a --configfile replaces the full configuration instead of being merged into it
if not workflow.overwrite_configfiles:

    configfile: next(filter(exists, ["config/config.yaml", f"{workflow.basedir}/config/config.yaml"]), "config/config.yaml")


report: "workflow/report/workflow.rst"


include: "rules/common.smk"
include: "rules/requests.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/sample.smk"
include: "rules/labels.smk"
include: "rules/train.smk"
include: "rules/validation.smk"
include: "rules/gradings.smk"
include: "rules/evaluate.smk"
include: "rules/figures.smk"
include: "rules/claims.smk"
include: "rules/audit.smk"
include: "rules/browser.smk"
include: "rules/provenance.smk"
include: "rules/plan.smk"
include: "rules/collect.smk"
include: "rules/cluster.smk"
include: "rules/lifecycle.smk"


# `snakemake` alone makes everything
rule all:
    default_target: True
    input:
        rules.all_figures.input,
        rules.all_tables.input,
        rules.all_browser.input,
