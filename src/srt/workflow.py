"""What the Snakefile needs beyond the config: the lock on a results folder, and figures resolved to files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from srt.config.root import Config, Figure
from srt.state import exclusive


def prepare_environment() -> None:
    """Set what every job inherits.

    `python` in the rules is the one that runs Snakemake, unless a conda environment puts its own in front. One thread
    a process unless a script asks for more: results depend on it, and idle OpenMP threads spin.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class ResultsLock:
    """One workflow at a time in a results folder. The kernel holds it, so no kill leaves it behind."""

    def __init__(self, results: Path) -> None:
        self._context = exclusive(results / ".lock")

    def acquire(self) -> None:
        """Take it for the rest of this process's life, or raise a sentence that names the holder."""
        self._context.__enter__()


def groups_file(results: str, checkpoint: str, suite: str) -> str:
    """Scored groups of a checkpoint (`base/{model}` or `{run}/step-{n}`) on a suite."""
    return f"{results}/eval/{checkpoint}/{suite}.groups.parquet"


def _series(config: Config, figure: Figure, run: str, instance: str, only_last: bool) -> dict[str, Any]:
    entry = config.runs[run]
    steps = entry.checkpoints[-1:] if only_last else entry.checkpoints
    points = [(0, f"base/{entry.model}"), *((n, f"{instance}/step-{n}") for n in steps)]
    return {
        "run": instance,
        "label": entry.label,
        "method": entry.method,
        "seed": config.entry(instance)[2],
        "points": [
            {"step": step, "groups": [groups_file(config.results, checkpoint, figure.suite)]}
            for step, checkpoint in points
        ],
        "metrics": f"{config.results}/runs/{instance}/metrics.parquet" if figure.kind == "dynamics" else None,
    }


def resolve_figure(config: Config, name: str) -> tuple[dict[str, Any], list[str]]:
    """The spec of figure `name` with every path in it, and those paths: the inputs of its job."""
    figure = config.figures[name]
    options = dict(figure.options)
    panels: list[dict[str, Any]] = []
    inputs: list[str] = []
    if figure.kind == "examples":
        options, inputs = _examples(config, figure, options)
    elif figure.kind == "gap":
        file = groups_file(config.results, f"base/{figure.model}", figure.suite)
        series = {"run": str(figure.model), "label": "Base model", "method": "base", "seed": 0, "metrics": None}
        panels = [{"title": "", "series": [{**series, "points": [{"step": 0, "groups": [file]}]}]}]
    for panel in figure.panels if figure.kind != "examples" else ():
        members = [
            _series(config, figure, run, instance, figure.kind == "bars")
            for run in panel.runs
            for instance in config.instances(run)
        ]
        resolved: dict[str, Any] = {"title": panel.title, "series": members}
        if panel.datasets:
            resolved["datasets"] = panel.datasets
        panels.append(resolved)
    for panel in panels:
        for series in panel["series"]:
            inputs += [file for point in series["points"] for file in point["groups"]]
            inputs += [series["metrics"]] if series["metrics"] else []
    spec = {
        "figure": name,
        "kind": figure.kind,
        "title": figure.title,
        "metric": figure.metric,
        "datasets": figure.datasets,
        "average": figure.average,
        "panels": panels,
        "options": options,
    }
    return spec, list(dict.fromkeys(inputs))


def _examples(config: Config, figure: Figure, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    instance = config.instances(figure.panels[0].runs[0])[0]
    run = config.entry(instance)[1]
    checkpoints = {"before": f"base/{run.model}", "after": f"{instance}/step-{run.checkpoints[-1]}"}
    samples = []
    for label, checkpoint in checkpoints.items():
        groups = groups_file(config.results, checkpoint, figure.suite)
        samples.append({"label": label, "samples": groups.replace(".groups.", ".samples."), "groups": groups})
    problems = [f"{config.results}/data/{name}.parquet" for name in figure.datasets]
    inputs = [path for s in samples for path in (s["samples"], s["groups"])] + problems
    return {**options, "samples": samples, "problems": problems}, inputs


def evaluations(config: Config) -> list[dict[str, Any]]:
    """Every evaluated checkpoint: run, label, method, seed, step, and the groups file of each of its suites.

    Step 0 of a run is its base model.
    """
    rows = []
    for run, entry in config.runs.items():
        for instance in config.instances(run):
            for step in (0, *entry.checkpoints):
                checkpoint = f"{instance}/step-{step}" if step else f"base/{entry.model}"
                rows.append(
                    {
                        "run": instance,
                        "label": entry.label,
                        "method": entry.method,
                        "seed": config.entry(instance)[2],
                        "step": step,
                        "groups": [groups_file(config.results, checkpoint, suite) for suite in entry.suites],
                    }
                )
    return rows
