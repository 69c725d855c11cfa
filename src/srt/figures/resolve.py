"""From a figure's entry in the configuration to its spec with every path in it, for the rules and the plan.

Reads no file and imports no matplotlib, because every job parses the rules.
"""

from __future__ import annotations

from typing import Any

from srt.artefacts.paths import Paths
from srt.artefacts.settings import stored_suite
from srt.config.figures import OPTIONS, Figure, Panel
from srt.config.lookups import figure_datasets, figure_suites, lineage
from srt.config.root import Config
from srt.config.runs import checkpoint_at


def resolve_figure(config: Config, name: str) -> tuple[dict[str, Any], list[str]]:
    """The spec of figure `name` (`srt.figures.spec.parse_spec`) and the files in it: the inputs of its job."""
    figure = config.figures[name]
    options = dict(figure.options)
    panels: list[dict[str, Any]] = []
    inputs: list[str] = []
    if figure.kind == "examples":
        options, inputs = _examples(config, figure, options)
    elif figure.kind == "gap":
        suite = stored_suite(config, str(figure.model), str(figure.suite))
        file = Paths(config.results).groups(f"base/{figure.model}", suite)
        series = {"run": str(figure.model), "label": "Base model", "method": "base", "seed": 0, "metrics": None}
        panels = [{"title": "", "series": [{**series, "points": [{"step": 0, "groups": [file]}]}]}]
    else:
        panels = [_panel(config, figure, panel) for panel in figure.panels]
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
    if OPTIONS[figure.kind].reads_training and (alarm := config.alarm.changed()):
        spec["alarm"] = alarm
    return spec, list(dict.fromkeys(inputs))


def _panel(config: Config, figure: Figure, panel: Panel) -> dict[str, Any]:
    """A panel with one series per run and seed; a climb has one per run of its chain and seed."""
    series = []
    for run in panel.runs:
        if figure.kind != "climb":
            datasets = list(panel.datasets or figure.datasets)
            series += [_series(config, figure, run, instance, datasets, panel) for instance in config.instances(run)]
            continue
        offset, links = 0, lineage(config.runs, run)
        for stage, link in enumerate(links):
            datasets = figure_datasets(config, figure, panel, link)
            following = config.runs[links[stage + 1]].init if stage + 1 < len(links) else None
            end = (following.step if following else None) or config.runs[link].checkpoints[-1]
            for seed in config.runs[run].seeds:
                resolved = _series(config, figure, link, f"{link}-s{seed}", datasets)
                points = [point for point in resolved["points"] if point["step"] <= end]  # those within the chain
                series.append({**resolved, "points": points, "datasets": datasets, "stage": stage, "offset": offset})
            offset += end
    resolved = {"title": panel.title, "series": series}
    resolved |= {"datasets": panel.datasets} if panel.datasets else {}
    return resolved | ({"suite": panel.suite} if panel.suite else {})


def _series(
    config: Config, figure: Figure, run: str, instance: str, datasets: list[str], panel: Panel | None = None
) -> dict[str, Any]:
    entry = config.runs[run]
    validation = figure.options.get("validation_dataset")
    suites = figure_suites(config, figure, run, [*datasets, *([validation] if validation else [])], panel)
    step = (panel.step if panel else None) or figure.options.get("step") or entry.checkpoints[-1]
    steps = [step] if figure.kind == "bars" else entry.checkpoints
    start = f"base/{entry.model}" if figure.options.get("from_base") else config.start(instance)
    points = [(0, start), *((n, checkpoint_at(instance, n)) for n in steps)]
    paths, stored = Paths(config.results), [stored_suite(config, entry.model, suite) for suite in suites]
    series = {
        "run": instance,
        "label": entry.label,
        "method": entry.method,
        "seed": config.entry(instance)[2],
        "points": [
            {"step": step, "groups": [paths.groups(checkpoint, name) for name in stored]} for step, checkpoint in points
        ],
        "metrics": paths.run_metrics(instance) if OPTIONS[figure.kind].reads_training else None,
    }
    if entry.on_alarm == "stop":
        series["alarm_stops"] = True
    # Early stopping is marked only where the figure's own samples show it: no figure requests samples for that.
    held_out = entry.validation if figure.kind in ("curves", "dynamics") else None
    if held_out and any(held_out.dataset in config.members(suite) for suite in suites):
        series["validation"] = held_out.model_dump(mode="json")
    return series


def _examples(config: Config, figure: Figure, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of a table of examples: samples at the start and at the end of one run, and its problem tables."""
    run = figure.panels[0].runs[0]
    instance = config.instances(run)[0]
    suites = figure_suites(config, figure, run, figure.datasets)
    checkpoints = {
        "before": config.start(instance),
        "after": checkpoint_at(instance, config.runs[run].checkpoints[-1]),
    }
    paths, suite = Paths(config.results), stored_suite(config, config.runs[run].model, suites[0])
    samples = [
        {"label": label, "samples": paths.samples(checkpoint, suite), "groups": paths.groups(checkpoint, suite)}
        for label, checkpoint in checkpoints.items()
    ]
    tables = [paths.problems(name) for name in figure.datasets]
    inputs = [path for s in samples for path in (s["samples"], s["groups"])] + tables
    return {**options, "samples": samples, "tables": tables}, inputs
