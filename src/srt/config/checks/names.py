"""Names: ids become file names and targets of Snakemake, so their letters are limited and none is taken twice."""

from __future__ import annotations

import re

from srt.config.base import SECTIONS, ConfigError
from srt.config.root import Config

ID = re.compile(r"[a-z0-9][a-z0-9_]*")
# Figures and runs are targets by their ids, so the names of rules are taken (a test compares them with the rules).
TARGETS = ("data", "models", "samples", "labels", "train", "eval", "figures", "tables", "browser")
RULES = frozenset(
    {"all", *(f"all_{target}" for target in TARGETS)}
    | {"data", "base_model", "sample", "score", "labels", "preferences", "curriculum", "train", "train_last"}
    | {"audit", "decontaminated", "browser", "browser_list", "provenance", "costs"}
    | {
        "run_metrics",
        "early_stopping",
        "evaluate",
        "gradings",
        "results_table",
        "claims",
        "plan",
        "slurm_check",
        "slurm_check_partition",
    }
)


def check_ids(config: Config) -> None:
    """Every id is a word in lower case."""
    for section in SECTIONS:
        for key in getattr(config, section):
            if not ID.fullmatch(key):
                fixed = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_") or "name"
                raise ConfigError(
                    [section], f"id '{key}' must be lower-case letters, digits and _ (it names files): write '{fixed}'"
                )


def check_targets(config: Config) -> None:
    """No figure or run has the name of a rule, and no figure that of a run."""
    runs = _run_targets(config)
    for section, names in (("figures", list(config.figures)), ("runs", sorted(runs))):
        for name in names:
            if name in RULES:
                raise ConfigError([section], f"'{name}' is the name of a rule: choose another id")
    for name in config.figures:
        if name in runs:
            raise ConfigError(["figures", name], "is also the target of a run and its seed: choose another id")


def check_aliases(config: Config) -> None:
    """Each alias of a figure is a distinct target: an id that no figure, run, rule or other alias has."""
    taken = {*config.figures, *_run_targets(config), *RULES}
    for name, figure in config.figures.items():
        for alias in figure.aliases:
            path = ["figures", name, "aliases"]
            if not ID.fullmatch(alias):
                raise ConfigError(path, f"'{alias}' must be lower-case letters, digits and _: rename it")
            if alias in taken:
                raise ConfigError(path, f"'{alias}' is a figure, run, rule or alias already: choose another id")
            taken.add(alias)


def _run_targets(config: Config) -> set[str]:
    """Targets of the runs: `id_s1` makes the run `id-s1`."""
    return {instance.replace("-", "_") for run in config.runs for instance in config.instances(run)}
