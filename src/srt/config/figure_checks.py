"""Figures against the rest of the configuration: data sets, suites, runs and labels that they name exist and fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from srt.common.errors import SrtError, nearest
from srt.config.figures import DynamicsOptions, Figure, Panel
from srt.config.lineage import ancestors

if TYPE_CHECKING:
    from srt.config.root import Config


def chain(config: Config, run: str) -> list[str]:
    """The runs that lead to `run` by `init`, the first from the base model, and `run` itself."""
    return [*reversed(ancestors(config.runs, run)), run]


def suites_of(
    config: Config, figure: Figure, run: str, datasets: Sequence[str], panel: Panel | None = None
) -> list[str]:
    """The suites whose samples of a run hold `datasets`: the panel's, the figure's, or the run's first with each."""
    given = (panel.suite if panel else None) or figure.suite
    if given is not None:
        return [given]
    found: list[str] = []
    for dataset in datasets:
        holders = [suite for suite in config.runs[run].suites if dataset in config.members(suite)]
        if not holders:
            raise SrtError(f"run '{run}' is not evaluated on '{dataset}': add it to the run's suites")
        found += [] if set(holders) & set(found) else holders[:1]
    return found


def level_datasets(config: Config, figure: Figure, panel: Panel, run: str) -> list[str]:
    """The figure's data sets that a run of a chain is evaluated on."""
    evaluated = {member for suite in config.runs[run].suites for member in config.members(suite)}
    return [name for name in panel.datasets or figure.datasets if name in evaluated]


def check_figures(config: Config) -> None:
    """Raise `ConfigError` for the first figure that names what there is not."""
    for name, figure in config.figures.items():
        _check_figure(config, name, figure)
    _check_aliases(config)


def _check_figure(config: Config, name: str, figure: Figure) -> None:
    from srt.config.root import ConfigError

    where = ["figures", name]

    def drawn(datasets: Sequence[str], path: list[str], suite: str | None = None) -> None:
        suite = suite or figure.suite
        members = config.members(suite, [*where, "suite"]) if suite is not None else None
        for i, dataset in enumerate(datasets):
            config.need("datasets", dataset, path)
            if members is not None and dataset not in members:
                known = ", ".join(members)
                raise ConfigError(path, f"data set '{dataset}' is not in suite '{suite}' (it has: {known})")
            if dataset in datasets[:i]:
                raise ConfigError(path, f"data set '{dataset}' is there twice: remove one")

    drawn(figure.datasets, [*where, "datasets"])
    validation = figure.options.get("validation_dataset")
    drawn([validation] if validation else [], [*where, "options", "validation_dataset"])
    for dataset in figure.options.get("names", {}):
        config.need("datasets", dataset, [*where, "options", "names"])
    if figure.kind == "gap":
        config.need("models", str(figure.model), [*where, "model"])
    for number, panel in enumerate(figure.panels, start=1):
        path = [*where, "panels", f"item {number}"]
        if panel.suite is not None:
            config.members(panel.suite, [*path, "suite"])
            drawn(panel.datasets or figure.datasets, [*path, "datasets"], panel.suite)
        drawn(panel.datasets or [], [*path, "datasets"], panel.suite)
        for i, run in enumerate(panel.runs):
            config.need("runs", run, [*path, "runs"])
            if run in panel.runs[:i]:
                raise ConfigError([*path, "runs"], f"run '{run}' is there twice: remove one")
            _check_evaluated(config, figure, panel, run, [*path, "runs"])
        if figure.kind != "climb":
            _check_labels(config, path, panel, figure.options.get("validation_series"))
    _check_marks(config, figure, where)


def _check_evaluated(config: Config, figure: Figure, panel: Panel, run: str, path: list[str]) -> None:
    """The run, or each run of its chain, has samples of what is drawn of it."""
    from srt.config.root import ConfigError

    if figure.kind == "climb":
        for each in chain(config, run):
            if not level_datasets(config, figure, panel, each):
                raise ConfigError(
                    path,
                    f"run '{each}', from which '{run}' comes, is evaluated on none of the figure's data sets: "
                    "add one of its test sets to datasets",
                )
        return
    suite = panel.suite or figure.suite
    if figure.kind == "bars":
        step = figure.options.get("step")
        check_sampled(config, run, [suite] if suite else [], step, path)
    if suite is not None:
        if suite not in config.runs[run].suites and figure.kind != "bars":
            raise ConfigError(path, f"run '{run}' is not evaluated on suite '{suite}': add it to the run's suites")
        return
    validation = figure.options.get("validation_dataset")
    try:
        suites_of(config, figure, run, [*(panel.datasets or figure.datasets), *([validation] if validation else [])])
    except SrtError as error:
        raise ConfigError(path, str(error)) from None


def check_sampled(config: Config, run: str, suites: Sequence[str], step: int | None, path: list[str]) -> None:
    """A run's checkpoint at `step` (None: the last) is there and sampled on these suites, by itself or as its probe."""
    from srt.config.root import ConfigError

    entry = config.runs[run]
    at = step or entry.checkpoints[-1]
    if at not in entry.checkpoints:
        near = max(entry.segment, round(at / entry.segment) * entry.segment)
        raise ConfigError(path, f"run '{run}' has no checkpoint at step {at}: set step to one, such as {near}")
    for suite in suites:
        if suite in entry.suites:
            continue
        if entry.probe is None or suite not in entry.probe.suites:
            raise ConfigError(path, f"run '{run}' is not evaluated on suite '{suite}': add it to the run's suites")
        probed = entry.probe.step or entry.checkpoints[-1]
        if probed != at:
            raise ConfigError(
                path, f"run '{run}' is sampled on suite '{suite}' at step {probed}, not {at}: set step to {probed}"
            )


def _check_labels(config: Config, path: list[str], panel: Panel, wanted: str | None) -> None:
    from srt.config.root import ConfigError

    labels: dict[str, str] = {}
    for run in panel.runs:
        label = config.runs[run].label
        other = labels.setdefault(label, run)
        if other != run:
            raise ConfigError(
                [*path, "runs"],
                f"'{other}' and '{run}' have one label, '{label}', and would be drawn as seeds of one run: "
                "give each its own label",
            )
    if wanted is not None and wanted not in labels:
        raise ConfigError(
            [*path[:2], "options", "validation_series"],
            f"no run has the label '{wanted}'{nearest(wanted, labels)}",
        )


def _check_marks(config: Config, figure: Figure, where: list[str]) -> None:
    """Series, data sets and quantities that marks name are drawn."""
    from srt.config.root import ConfigError

    labels = [config.runs[run].label for panel in figure.panels for run in panel.runs]
    datasets = [*figure.datasets, *(name for panel in figure.panels for name in panel.datasets or [])]
    if figure.kind == "dynamics":
        quantities = [str(name) for name in figure.options.get("quantities") or DynamicsOptions().quantities]
    else:
        quantities = figure.options.get("metrics") or [figure.metric]
    for number, mark in enumerate(figure.options.get("marks", []), start=1):
        path = [*where, "options", "marks", f"item {number}"]
        series, dataset = mark.get("series"), mark.get("dataset")
        if series is not None and series not in labels:
            raise ConfigError([*path, "series"], f"no run has the label '{series}'{nearest(series, labels)}")
        if dataset is not None and dataset not in datasets:
            raise ConfigError(
                [*path, "dataset"], f"data set '{dataset}' is not drawn{nearest(dataset, datasets)}: remove the mark"
            )
        quantity = mark.get("quantity")
        if quantity is not None and quantity not in quantities:
            raise ConfigError(
                [*path, "quantity"], f"'{quantity}' is not drawn{nearest(quantity, quantities)}: remove the mark"
            )


def _check_aliases(config: Config) -> None:
    """Each is a target of its own: an id that no figure, run, rule or other alias has."""
    from srt.config.root import ID, RULES, ConfigError

    runs = {instance.replace("-", "_") for run in config.runs for instance in config.instances(run)}
    seen: dict[str, str] = {}
    for name, figure in config.figures.items():
        for alias in figure.aliases:
            where = ["figures", name, "aliases"]
            if not ID.fullmatch(alias):
                raise ConfigError(where, f"'{alias}' must be lower-case letters, digits and _: rename it")
            if alias in config.figures or alias in runs or alias in RULES or alias in seen:
                raise ConfigError(where, f"'{alias}' is a figure, run, rule or alias already: choose another id")
            seen[alias] = name
