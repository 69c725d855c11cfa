"""Checks that cross sections of the configuration. They import the sections; no section imports a check."""

from srt.config.checks.claims import check_claims
from srt.config.checks.evaluate import check_evaluate
from srt.config.checks.figures import check_figures
from srt.config.checks.lineage import check_lineage
from srt.config.checks.names import check_ids, check_targets
from srt.config.checks.runs import check_gradings, check_plan, check_runs, check_suites
from srt.config.root import Config

__all__ = ["check"]


def check(config: Config) -> None:
    """Raise a `ConfigError` for the first entry that does not fit the others."""
    check_ids(config)
    check_suites(config)
    check_runs(config)
    check_evaluate(config)
    check_plan(config)
    check_gradings(config)
    check_lineage(config)
    check_figures(config)
    check_claims(config)
    check_targets(config)
