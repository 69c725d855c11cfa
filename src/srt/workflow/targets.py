"""Targets for people: a short list, and a suggestion where one is misspelt (applied by srt.workflow.patches)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.exceptions import MissingRuleException

from srt.common.errors import nearest

# Beside `all` and one target per stage, `all_*`.
FOR_PEOPLE = ("plan", "claims", "evaluate", "slurm_check")
_NUMBERS = re.compile(r"(\d+)")


def naming_the_nearest_target(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Workflow._build_dag` that names the nearest target where there is none of the given name."""

    def build_dag(workflow: Any) -> None:
        try:
            original(workflow)
        except MissingRuleException as error:
            settings, rules = workflow.dag_settings, list(workflow.rules)
            names = {rule.name for rule in rules}
            asked = {*settings.targets, *settings.forcerun, *settings.until, *settings.omit_from} - names
            wrong = next((name for name in sorted(asked) if os.path.relpath(name) in str(error)), None)
            if wrong is not None:
                files = {str(path) for rule in rules if not rule.has_wildcards() for path in rule.output}
                close = nearest(wrong, files if "/" in wrong else names)
                close = close if "did you mean" in close else ""  # not a list of hundreds
                # the class stays: for others Snakemake prints places in files as well
                error.args = (f"There is no target '{wrong}'{close}: snakemake --list names the targets.",)
            raise

    return build_dag


def listing_for_people(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Workflow.list_rules` that lists a dozen targets; with `only_targets` all of them, figures in their order."""

    def list_rules(workflow: Any, only_targets: bool = False) -> None:
        targets = sorted(
            (rule for rule in workflow.rules if not rule.has_wildcards()), key=lambda rule: natural(rule.name)
        )
        first = [rule for rule in targets if re.match(r"all(_|$)", rule.name) or rule.name in FOR_PEOPLE]
        for rule in targets if only_targets else first:
            print(f"{rule.name} ({rule.docstring})" if rule.docstring else rule.name)
        if not only_targets:
            rest = [rule.name for rule in targets if rule not in first]
            runs = [name for name in rest if re.search(r"_s\d+$", name)]
            figures = [name for name in rest if re.search(r"(fig|table)\d+$", name)]
            if figures:
                print(f"{figures[0]} ({len(figures)} figures and tables of the paper)")
            if runs:
                print(f"{runs[0]} ({len(runs)} runs of one seed, each with its evaluations)")
            print("All of them: snakemake --list-target-rules")

    return list_rules


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers by their value.

    >>> sorted(["fig10", "fig2"], key=natural)
    ['fig2', 'fig10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _NUMBERS.split(name)]
