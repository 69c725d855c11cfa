"""Which files the table of both gradings reads: the key `gradings` of the main file."""

from __future__ import annotations

from typing import Any

from srt.artefacts.paths import Paths
from srt.artefacts.settings import stored_suite
from srt.common.own_code import pinned
from srt.config.root import Config
from srt.config.runs import checkpoint_at


def resolve_gradings(config: Config) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The spec of the table, and its inputs by kind: groups, samples and problem tables.

    A run has, by seed, its checkpoints (the start first) and, by data set, the suite whose samples are read.
    """
    assert config.gradings is not None
    paths = Paths(config.results)
    runs, groups, samples = [], [], []
    for name in config.gradings.runs:
        run = config.runs[name]
        suites = {
            dataset: stored_suite(
                config, run.model, next(suite for suite in run.suites if dataset in config.members(suite))
            )
            for dataset in config.gradings.datasets
        }
        checkpoints = [
            [config.start(instance), *(checkpoint_at(instance, step) for step in run.checkpoints)]
            for instance in config.instances(name)
        ]
        runs.append(
            {"run": name, "label": run.label, "steps": run.checkpoints, "checkpoints": checkpoints, "suites": suites}
        )
        places = [(checkpoint, suite) for seed in checkpoints for checkpoint in seed for suite in suites.values()]
        groups += [paths.groups(*place) for place in places]
        samples += [paths.samples(*place) for place in places]
    problems = [paths.problems(dataset) for dataset in config.gradings.datasets]
    extractor = pinned(config.scoring.extractor, config.code_folders)
    spec = {"results": config.results, "preset": config.scoring.preset, "extractor": extractor, "runs": runs}
    if tasks := sorted({task for dataset in config.gradings.datasets for task in config.own_tasks(dataset)}):
        spec["own_tasks"] = tasks
    inputs = {"groups": groups, "samples": samples, "problems": problems}
    return spec, {kind: list(dict.fromkeys(files)) for kind, files in inputs.items()}
