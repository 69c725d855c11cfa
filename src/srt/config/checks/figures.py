"""Figures: the data sets, suites, runs, steps and labels that they name exist and fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from srt.common.errors import SrtError, nearest
from srt.config.base import ConfigError
from srt.config.checks.names import check_aliases
from srt.config.checks.references import refuse_repeat, require, require_suite
from srt.config.figures import DynamicsOptions, Figure, Panel
from srt.config.lookups import figure_datasets, figure_suites, lineage
from srt.config.root import Config


def check_figures(config: Config) -> None:
    """Raise a `ConfigError` for the first figure that names what does not exist."""
    for name, figure in config.figures.items():
        path = ["figures", name]
        _check_options(config, figure, path)
        for number, panel in enumerate(figure.panels, start=1):
            _check_panel(config, figure, panel, [*path, "panels", f"item {number}"])
        _check_marks(config, figure, path)
    check_aliases(config)


def _check_options(config: Config, figure: Figure, path: list[str]) -> None:
    """Data sets and the base model that the figure names itself."""
    if figure.suite is not None:
        require_suite(config, figure.suite, [*path, "suite"])
    _check_datasets(config, figure.datasets, figure.suite, [*path, "datasets"])
    if validation := figure.options.get("validation_dataset"):
        _check_datasets(config, [validation], figure.suite, [*path, "options", "validation_dataset"])
    for dataset in figure.options.get("names", {}):
        require(config, "datasets", dataset, [*path, "options", "names"])
    if figure.kind == "gap":
        require(config, "models", str(figure.model), [*path, "model"])


def _check_datasets(config: Config, datasets: Sequence[str], suite: str | None, path: list[str]) -> None:
    """Data sets that are drawn exist, are in the suite if one is given, and are named once."""
    members = config.members(suite) if suite is not None else None
    for position, dataset in enumerate(datasets):
        require(config, "datasets", dataset, path)
        if members is not None and dataset not in members:
            known = ", ".join(members)
            raise ConfigError(path, f"data set '{dataset}' is not in suite '{suite}' (it has: {known})")
        refuse_repeat(datasets, position, "data set", path)


def _check_panel(config: Config, figure: Figure, panel: Panel, path: list[str]) -> None:
    """Data sets and runs of a panel."""
    if panel.suite is not None:
        require_suite(config, panel.suite, [*path, "suite"])
    if panel.suite is not None or panel.datasets:
        _check_datasets(config, panel.datasets or figure.datasets, panel.suite or figure.suite, [*path, "datasets"])
    for position, run in enumerate(panel.runs):
        require(config, "runs", run, [*path, "runs"])
        refuse_repeat(panel.runs, position, "run", [*path, "runs"])
        if figure.kind == "climb":
            _check_chain(config, figure, panel, run, [*path, "runs"])
        else:
            _check_evaluated(config, figure, panel, run, [*path, "runs"])
    if figure.kind != "climb":
        _check_labels(config, panel, path)


def _check_chain(config: Config, figure: Figure, panel: Panel, run: str, path: list[str]) -> None:
    """Each run that leads to the last one of a chain is evaluated on one of the figure's data sets."""
    for link in lineage(config.runs, run):
        if not figure_datasets(config, figure, panel, link):
            raise ConfigError(
                path,
                f"run '{link}', from which '{run}' starts, is evaluated on none of the figure's data sets: "
                "add one of its test sets to datasets",
            )


def _check_evaluated(config: Config, figure: Figure, panel: Panel, run: str, path: list[str]) -> None:
    """The run is sampled on every data set that is drawn."""
    suite = panel.suite or figure.suite
    if figure.kind == "bars":
        step = panel.step or figure.options.get("step")
        require_sampled(config, run, [suite] if suite else [], step, path)
    elif suite is not None and suite not in config.runs[run].suites:
        raise ConfigError(path, f"run '{run}' is not evaluated on suite '{suite}': add it to the run's suites")
    if suite is None:
        validation = figure.options.get("validation_dataset")
        datasets = [*(panel.datasets or figure.datasets), *([validation] if validation else [])]
        try:
            figure_suites(config, figure, run, datasets)
        except SrtError as error:
            raise ConfigError(path, str(error)) from None


def require_sampled(config: Config, run: str, suites: Sequence[str], step: int | None, path: list[str]) -> None:
    """The run's checkpoint at `step` (None: its last) exists and is sampled on these suites, or on them as a probe."""
    entry = config.runs[run]
    step = step or entry.checkpoints[-1]
    if step not in entry.checkpoints:
        near = max(entry.segment, round(step / entry.segment) * entry.segment)
        raise ConfigError(path, f"run '{run}' has no checkpoint at step {step}: set step to one, such as {near}")
    for suite in suites:
        if suite in entry.suites:
            continue
        if entry.probe is None or suite not in entry.probe.suites:
            raise ConfigError(path, f"run '{run}' is not evaluated on suite '{suite}': add it to the run's suites")
        probed = entry.probe.step or entry.checkpoints[-1]
        if probed != step:
            raise ConfigError(
                path, f"run '{run}' is sampled on suite '{suite}' at step {probed}, not {step}: set step to {probed}"
            )


def _check_labels(config: Config, panel: Panel, path: list[str]) -> None:
    """Labels tell the runs of a panel apart."""
    labels: dict[str, str] = {}
    for run in panel.runs:
        label = config.runs[run].label
        other = labels.setdefault(label, run)
        if other != run:
            raise ConfigError(
                [*path, "runs"],
                f"'{other}' and '{run}' share the label '{label}' and would be drawn as seeds of one run: "
                "give each its own label",
            )


def _check_marks(config: Config, figure: Figure, path: list[str]) -> None:
    """Series, data sets and quantities that marks name are drawn."""
    labels = [config.runs[run].label for panel in figure.panels for run in panel.runs]
    datasets = [*figure.datasets, *(name for panel in figure.panels for name in panel.datasets or [])]
    if figure.kind == "dynamics":
        quantities = [str(name) for name in figure.options.get("quantities") or DynamicsOptions().quantities]
    else:
        quantities = figure.options.get("metrics") or [figure.metric]
    for number, mark in enumerate(figure.options.get("marks", []), start=1):
        keys = [*path, "options", "marks", f"item {number}"]
        series, dataset, quantity = mark.get("series"), mark.get("dataset"), mark.get("quantity")
        if series is not None and series not in labels:
            raise ConfigError([*keys, "series"], f"no run has the label '{series}'{nearest(series, labels)}")
        if dataset is not None and dataset not in datasets:
            raise ConfigError(
                [*keys, "dataset"], f"data set '{dataset}' is not drawn{nearest(dataset, datasets)}: remove the mark"
            )
        if quantity is not None and quantity not in quantities:
            raise ConfigError(
                [*keys, "quantity"], f"'{quantity}' is not drawn{nearest(quantity, quantities)}: remove the mark"
            )
