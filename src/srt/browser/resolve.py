"""The checkpoints and files that each page shows. Reads no file, because every job parses the rules."""

from __future__ import annotations

from typing import Any

from srt.artefacts.paths import Paths
from srt.artefacts.settings import stored_suite
from srt.config.root import Config
from srt.config.runs import checkpoint_at

MAX_STEPS = 12


def shown_steps(checkpoints: list[int], most: int = MAX_STEPS) -> list[int]:
    """The start of the run (0) and its checkpoints; if there are many, `most` evenly spaced ones with both ends.

    >>> shown_steps([10, 20, 30, 40], most=3)
    [0, 20, 40]
    """
    steps = [0, *checkpoints]
    if len(steps) <= most:
        return steps
    return [steps[i * (len(steps) - 1) // (most - 1)] for i in range(most)]


def _checkpoints(config: Config, instance: str) -> dict[int, str]:
    """The checkpoints that the page of a run of one seed shows, by step."""
    steps = shown_steps(config.entry(instance).run.checkpoints)
    return {step: checkpoint_at(instance, step) if step else config.start(instance) for step in steps}


def page_spec(config: Config, instance: str) -> dict[str, Any]:
    """What `srt.browser.collect.collect` needs for the page of a run of one seed."""
    run, paths, points = config.entry(instance).run, Paths(config.results), []
    for step, checkpoint in _checkpoints(config, instance).items():
        stems = [paths.evaluation(checkpoint, stored_suite(config, run.model, suite)) for suite in run.suites]
        name = f"Step {step}" if step else "Base model" if checkpoint.startswith("base/") else f"Start: {checkpoint}"
        points.append({"step": step, "name": name, "stems": stems})
    about = {"run": instance, "label": run.label, "model": run.model, "reward": run.reward}
    return {**about, "points": points, "metrics": paths.run_metrics(instance)}


def page_files(config: Config, instance: str) -> list[str]:
    """The samples, scores, groups and training metrics that the page reads."""
    run, paths = config.entry(instance).run, Paths(config.results)
    return [
        table(checkpoint, stored_suite(config, run.model, suite))
        for checkpoint in _checkpoints(config, instance).values()
        for suite in run.suites
        for table in (paths.samples, paths.scores, paths.groups)
    ] + [paths.run_metrics(instance)]


def page_problems(config: Config, instance: str) -> list[str]:
    """The problem tables of the run's suites."""
    names = [name for suite in config.entry(instance).run.suites for name in config.members(suite)]
    return [Paths(config.results).problems(name) for name in dict.fromkeys(names)]


def pages(config: Config) -> list[dict[str, str]]:
    """The runs with a page in the full DAG, the first seed of each entry, for the list of pages."""
    return [
        {"file": f"{instance}.html", "run": instance, "label": run.label, "model": run.model, "data": run.data}
        for name, run in config.runs.items()
        for instance in config.instances(name)[:1]
    ]
