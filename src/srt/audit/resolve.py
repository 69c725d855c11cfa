"""The configuration's training and test sets, which the audit compares.

Reads no files, because this code runs every time a job parses the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srt.artefacts.evaluations import evaluation_spec, expand_evaluations
from srt.config.lookups import lineage
from srt.config.root import Config

REVISION = 1  # raised by hand when the audit's code finds something else than before
SPEC = ("results", "runs", "trained_on")


def training_data(config: Config, run: str) -> list[str]:
    """The training sets of a run entry and of the runs that it starts from, the earliest first."""
    return list(dict.fromkeys(config.runs[name].data for name in lineage(config.runs, run)))


def audited_sets(config: Config) -> dict[str, list[str]]:
    """The training and the test sets of all runs, and those of both that were generated from templates.

    A test set is a member of a suite that a run or a figure uses. Generated sets (Reasoning Gym) share their wording
    by construction, so only exact matches count there.
    """
    train = list(dict.fromkeys(name for run in config.runs for name in training_data(config, run)))
    suites = [suite for run in config.runs.values() for suite in run.suites]
    suites += [suite for run in config.runs.values() if run.probe for suite in run.probe.suites]
    suites += [figure.suite for figure in config.figures.values() if figure.suite]
    test = list(dict.fromkeys(name for suite in dict.fromkeys(suites) for name in config.members(suite)))
    generated = [n for n in dict.fromkeys([*train, *test]) if config.datasets[n].source == "reasoning_gym"]
    return {"train": train, "test": test, "generated": generated}


def audit_spec(config: Config) -> dict[str, Any]:
    """All evaluations of runs (`srt.artefacts.evaluations.evaluation_spec`), and the training sets of each entry."""
    spec = {key: value for key, value in evaluation_spec(config).items() if key != "evaluate"}
    return {**spec, "trained_on": {run: training_data(config, run) for run in config.runs}}


def expand(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The evaluations of `audit_spec`, each with the training sets of its run as `trained_on`."""
    return [
        {**row, "trained_on": spec["trained_on"][row["run"].rpartition("-s")[0]]} for row in expand_evaluations(spec)
    ]
