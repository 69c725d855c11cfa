"""The spec of a figure: what to draw from which files, already resolved, checked before any file is opened.

A spec is plain JSON (see `parse_spec`), so that the workflow can hash it, a person can type it, and the same figure
code serves tiny, mini and full runs. This module knows nothing of matplotlib and reads no data.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError, nearest
from srt.config.alarm import AlarmRule

METRICS = ("avg", "maj")
# What curves can show; the last two are shares of responses (with an answer; correct ones among those).
CURVE_METRICS = (*METRICS, "parsed", "correct_parsed")
_SPEC_KEYS = ("figure", "kind", "title", "metric", "datasets", "average", "panels", "options", "alarm")
_PANEL_KEYS = ("title", "series", "datasets", "suite")
_SERIES_KEYS = ("run", "label", "method", "seed", "points", "metrics", "datasets", "validation", "stage", "offset")
_POINT_KEYS = ("step", "groups")


@dataclass(frozen=True)
class Point:
    """One evaluated checkpoint: its RL step and the groups files that hold its evaluation."""

    step: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """One run: several runs of one `label` in a panel are seeds of one line.

    `validation` is (data set, metric) of early stopping, if the groups files hold that set. In a climb, `stage` is the
    place of the run in its chain and `offset` the steps before it; elsewhere both are 0.
    """

    run: str
    label: str
    method: str
    seed: int
    points: tuple[Point, ...]
    metrics: str | None
    datasets: tuple[str, ...]
    validation: tuple[str, str] | None = None
    stage: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Panel:
    """One train set (or one row) of a figure.

    `suite`: what its samples are, where they are not those of the other panels (another temperature, another n).
    """

    title: str
    series: tuple[Series, ...]
    datasets: tuple[str, ...]
    suite: str = ""

    def groups_of_seeds(self) -> dict[str, list[Series]]:
        """The series by label, in the order of first appearance; seeds of one label ordered by seed, then run."""
        by_label: dict[str, list[Series]] = {}
        for series in self.series:
            by_label.setdefault(series.label, []).append(series)
        return {label: sorted(group, key=lambda s: (s.seed, s.run)) for label, group in by_label.items()}

    def stages(self) -> list[list[Series]]:
        """The runs of a climb by their place in the chain, each with its seeds in order."""
        by_stage: dict[int, list[Series]] = {}
        for series in self.series:
            by_stage.setdefault(series.stage, []).append(series)
        return [sorted(by_stage[stage], key=lambda s: (s.seed, s.run)) for stage in sorted(by_stage)]


@dataclass(frozen=True)
class Spec:
    """A whole figure. `datasets` of a panel or a series, where given, replace those of the figure."""

    figure: str
    kind: str
    title: str
    metric: str
    datasets: tuple[str, ...]
    average: bool
    panels: tuple[Panel, ...]
    options: dict[str, Any] = field(default_factory=dict)
    alarm: AlarmRule = field(default_factory=AlarmRule)

    def name(self, dataset: str) -> str:
        """How a data set is called in the figure: `options.names`, else its own name."""
        return str(self.options.get("names", {}).get(dataset, dataset))

    def where(self) -> str:
        """How errors name this figure."""
        return f"figure '{self.figure}'"


def read_spec(text: str) -> dict[str, Any]:
    """The raw spec of the command line: JSON text, or @FILE with JSON in it."""
    if text.startswith("@"):
        from srt.common.io import read_json  # here, not at the top: it brings pandas, which `--help` does not need

        raw = read_json(Path(text[1:]))
        source = text[1:]
    else:
        source = "--spec"
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise SrtError(f"--spec is not JSON ({error}): pass one JSON object, or @FILE that holds one") from None
    if not isinstance(raw, dict):
        raise SrtError(f"{source} holds a JSON {type(raw).__name__}, not an object with the keys of a figure's spec")
    return raw


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """Check a raw spec and give it types; the first fault is a `SrtError` that names figure, key and fix.

    Keys: figure, kind, title, metric ("avg" | "maj"), datasets, average (bool: one curve of the mean of the data
    sets' means, or one panel a data set), panels [{title, datasets?, suite?, series [{run, label, method, seed,
    metrics, datasets?, points [{step, groups}]}]}], options (of the kind), alarm (keys of
    the collapse alarm's rule that are not at their default).
    """
    where = f"figure '{raw.get('figure', '?')}'"
    _only(raw, _SPEC_KEYS, where)
    for key in ("figure", "kind"):
        if not isinstance(raw.get(key), str) or not raw[key]:
            raise SrtError(f"{where}: the spec needs the text key '{key}'")
    metric = raw.get("metric", "avg")
    if metric not in METRICS:
        raise SrtError(f"{where}: metric '{metric}' is unknown; write 'avg' or 'maj'")
    average = raw.get("average", True)
    if not isinstance(average, bool):
        raise SrtError(f"{where}: 'average' must be true or false, not {average!r}")
    options = raw.get("options") or {}
    if not isinstance(options, Mapping):
        raise SrtError(f"{where}: 'options' must be an object, not {options!r}")
    datasets = _names(raw.get("datasets", ()), f"{where}: 'datasets'")
    panels = tuple(_panel(panel, datasets, where) for panel in _list(raw.get("panels", ()), f"{where}: 'panels'"))
    return Spec(
        figure=raw["figure"],
        kind=raw["kind"],
        title=str(raw.get("title") or raw["figure"]),
        metric=metric,
        datasets=datasets,
        average=average,
        panels=panels,
        options=dict(options),
        alarm=AlarmRule.model_validate(raw.get("alarm") or {}),
    )


def check_options(spec: Spec, known: Iterable[str]) -> None:
    """Refuse an option that the kind does not have."""
    known = sorted({*known, "names"})
    for key in spec.options:
        if key not in known:
            raise SrtError(f"{spec.where()}: kind '{spec.kind}' has no option '{key}'{nearest(key, known)}")


def curve_metrics(spec: Spec) -> tuple[str, ...]:
    """The rows of panels: `options.metrics`, else the figure's metric."""
    metrics = spec.options.get("metrics") or [spec.metric]
    if not isinstance(metrics, list):
        raise SrtError(f"{spec.where()}: options.metrics must be a list, not {metrics!r}")
    for metric in metrics:
        if metric not in CURVE_METRICS:
            raise SrtError(
                f"{spec.where()}: options.metrics has the unknown '{metric}'{nearest(str(metric), CURVE_METRICS)}"
            )
    if len(set(metrics)) != len(metrics):
        raise SrtError(f"{spec.where()}: options.metrics must name each metric once")
    return tuple(metrics)


def check_panels(spec: Spec) -> None:
    """Refuse a figure with nothing to draw: no panel, no series, no point, no data set."""
    if not spec.panels:
        raise SrtError(f"{spec.where()}: no panels; name at least one panel with one series")
    for panel in spec.panels:
        if not panel.series:
            raise SrtError(f"{spec.where()}: panel '{panel.title}' has no series; name at least one run")
        for series in panel.series:
            if not series.datasets:
                raise SrtError(f"{spec.where()}: 'datasets' is empty; name the test sets to draw")
            if not series.points:
                raise SrtError(
                    f"{spec.where()}: series '{series.label}' (run '{series.run}') in panel '{panel.title}' has no "
                    "points; evaluate at least one of its checkpoints"
                )


def _panel(raw: Any, datasets: tuple[str, ...], where: str) -> Panel:
    _object(raw, f"{where}: a panel")
    _only(raw, _PANEL_KEYS, f"{where}, panel '{raw.get('title', '?')}'")
    title = str(raw.get("title", ""))
    where = f"{where}, panel '{title}'"
    datasets = _names(raw["datasets"], f"{where}: 'datasets'") if raw.get("datasets") else datasets
    rows = _list(raw.get("series", ()), f"{where}: 'series'")
    panel = Panel(title, tuple(_series(row, datasets, where) for row in rows), datasets, str(raw.get("suite", "")))
    for label, group in panel.groups_of_seeds().items():
        if len({series.method for series in group}) > 1:
            raise SrtError(f"{where}: series '{label}' mixes methods ({', '.join(s.method for s in group)}); one each")
    return panel


def _series(raw: Any, datasets: tuple[str, ...], where: str) -> Series:
    _object(raw, f"{where}: a series")
    run = str(raw.get("run", "?"))
    where = f"{where}, run '{run}'"
    _only(raw, _SERIES_KEYS, where)
    for key in ("run", "label", "method"):
        if not isinstance(raw.get(key), str) or not raw[key]:
            raise SrtError(f"{where}: the series needs the text key '{key}'")
    metrics = raw.get("metrics")
    if metrics is not None and not isinstance(metrics, str):
        raise SrtError(f"{where}: 'metrics' must be a path or null, not {metrics!r}")
    points = [_point(point, where) for point in _list(raw.get("points", ()), f"{where}: 'points'")]
    points.sort(key=lambda point: point.step)
    for left, right in itertools.pairwise(points):
        if left.step == right.step:
            raise SrtError(f"{where}: step {left.step} appears twice in 'points'; join their groups in one point")
    return Series(
        run=run,
        label=raw["label"],
        method=raw["method"],
        seed=_integer(raw.get("seed", 0), f"{where}: 'seed'"),
        points=tuple(points),
        metrics=metrics,
        datasets=_names(raw["datasets"], f"{where}: 'datasets'") if raw.get("datasets") else datasets,
        validation=_validation(raw.get("validation"), where),
        stage=_integer(raw.get("stage", 0), f"{where}: 'stage'"),
        offset=_integer(raw.get("offset", 0), f"{where}: 'offset'"),
    )


def _validation(raw: Any, where: str) -> tuple[str, str] | None:
    if raw is None:
        return None
    _object(raw, f"{where}: 'validation'")
    _only(raw, ("dataset", "metric"), f"{where}, validation")
    if not isinstance(raw.get("dataset"), str) or raw.get("metric") not in METRICS:
        raise SrtError(f"{where}: 'validation' needs the text 'dataset' and a 'metric', 'avg' or 'maj', not {raw!r}")
    return raw["dataset"], raw["metric"]


def _point(raw: Any, where: str) -> Point:
    _object(raw, f"{where}: a point")
    _only(raw, _POINT_KEYS, f"{where}, a point")
    step = _integer(raw.get("step"), f"{where}: 'step' of a point")
    groups = raw.get("groups")
    groups = _names([groups] if isinstance(groups, str) else groups, f"{where}: 'groups' of step {step}")
    if not groups:
        raise SrtError(f"{where}: step {step} names no groups file")
    return Point(step, groups)


def _only(raw: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in raw:
        if key not in known:
            raise SrtError(f"{where}: unknown key '{key}'{nearest(key, known)}")


def _object(raw: Any, what: str) -> None:
    if not isinstance(raw, Mapping):
        raise SrtError(f"{what} must be an object, not {raw!r}")


def _list(raw: Any, what: str) -> list[Any]:
    if not isinstance(raw, list | tuple):
        raise SrtError(f"{what} must be a list, not {raw!r}")
    return list(raw)


def _names(raw: Any, what: str) -> tuple[str, ...]:
    names = _list(raw, what)
    if not all(isinstance(name, str) and name for name in names):
        raise SrtError(f"{what} must be a list of texts, not {raw!r}")
    if len(set(names)) != len(names):
        raise SrtError(f"{what} names {next(n for n in names if names.count(n) > 1)!r} twice; once is enough")
    return tuple(names)


def _integer(raw: Any, what: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise SrtError(f"{what} must be a whole number, not {raw!r}")
    return raw
