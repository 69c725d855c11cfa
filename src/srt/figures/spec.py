"""The spec of a figure: what to draw from which files, with every path in it, checked before any file is opened.

A spec is plain JSON (see `parse_spec`): the workflow can hash it, a person can type it, and the same code draws tiny,
mini and full runs. This module needs no matplotlib and reads no data.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from srt.common.errors import SrtError, nearest
from srt.config.alarm import AlarmRule
from srt.config.base import Strict
from srt.config.explain import first_problem
from srt.config.figures import OPTIONS, ExamplesOptions, Options, parse_options


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' appears twice: remove one")
    return names


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], AfterValidator(_distinct)]


class Point(Strict):
    """One evaluated checkpoint: its RL step and the groups files that hold its evaluation."""

    step: int
    groups: Names = Field(min_length=1)


def _in_order(points: tuple[Point, ...]) -> tuple[Point, ...]:
    points = tuple(sorted(points, key=lambda point: point.step))
    for left, right in itertools.pairwise(points):
        if left.step == right.step:
            raise ValueError(f"step {left.step} appears twice: join its groups in one point")
    return points


class Validation(Strict):
    """The held-out set that early stopping watches, and its metric."""

    dataset: Name
    metric: Literal["avg", "maj"]


class Series(Strict):
    """One run: several runs of one `label` in a panel are seeds of one line.

    In a climb, `stage` is the place of the run in its chain and `offset` the number of steps before it; elsewhere both
    are 0. `alarm_stops`: the collapse alarm ends the run (`on_alarm: stop`).
    """

    run: Name
    label: Name
    method: Name
    seed: int = 0
    points: Annotated[tuple[Point, ...], AfterValidator(_in_order)] = Field(min_length=1)
    metrics: str | None = None
    datasets: Names = Field((), min_length=1, validate_default=True)
    validation: Validation | None = None
    stage: int = 0
    offset: int = 0
    alarm_stops: bool = False


def _by_seed(runs: Sequence[Series]) -> list[Series]:
    return sorted(runs, key=lambda run: (run.seed, run.run))


def _with_datasets(raw: Any, children: str) -> Any:
    """A raw panel or figure, with its `datasets` given to those of its `children` that name none."""
    if not isinstance(raw, dict) or not isinstance(raw.get(children), list) or not raw.get("datasets"):
        return raw
    own = [
        {**child, "datasets": child.get("datasets") or raw["datasets"]} if isinstance(child, dict) else child
        for child in raw[children]
    ]
    return {**raw, children: own}


class Panel(Strict):
    """One train set (or one row) of a figure.

    `suite`: what its samples are, where they are not those of the other panels (another temperature, another n).
    `temperature`: such as "T = 0.6", where panels differ in it; `srt.figures.temperatures` fills it in.
    """

    title: str = ""
    series: tuple[Series, ...] = Field(min_length=1)
    datasets: Names = ()
    suite: str = ""
    temperature: str = ""

    @model_validator(mode="before")
    @classmethod
    def _series_inherit(cls, raw: Any) -> Any:
        return _with_datasets(raw, "series")

    @model_validator(mode="after")
    def _one_method_per_label(self) -> Panel:
        for label, group in self.groups_of_seeds().items():
            if len({series.method for series in group}) > 1:
                methods = ", ".join(series.method for series in group)
                raise ValueError(f"series '{label}' mixes methods ({methods}): give it one")
        return self

    def groups_of_seeds(self) -> dict[str, list[Series]]:
        """The series by label, in the order of first appearance; seeds of one label ordered by seed, then run."""
        by_label: dict[str, list[Series]] = {}
        for series in self.series:
            by_label.setdefault(series.label, []).append(series)
        return {label: _by_seed(group) for label, group in by_label.items()}

    def stages(self) -> list[list[Series]]:
        """The runs of a climb by their place in the chain, each with its seeds in order."""
        by_stage: dict[int, list[Series]] = {}
        for series in self.series:
            by_stage.setdefault(series.stage, []).append(series)
        return [_by_seed(by_stage[stage]) for stage in sorted(by_stage)]


class Samples(Strict):
    """Where the responses of one column of a table of examples are."""

    label: Name
    samples: Name
    groups: Name


class ExamplesSpecOptions(ExamplesOptions):
    """Options of kind `examples`, with the files that the workflow adds."""

    samples: list[Samples] = Field(min_length=2, description="Two or more sets of samples, such as before and after.")
    tables: list[Name] = Field(min_length=1, description="Problem tables.")

    @model_validator(mode="after")
    def _labels_differ(self) -> ExamplesSpecOptions:
        _distinct(tuple(source.label for source in self.samples))
        return self


class Spec(Strict):
    """A whole figure. `datasets` of a panel or a series, where given, replace those of the figure."""

    figure: Name
    kind: Name
    title: str
    metric: Literal["avg", "maj"] = "avg"
    datasets: Names = ()
    average: bool = True
    panels: tuple[Panel, ...] = ()
    options: Any  # the model of the kind, a subclass of `srt.config.figures.Options`
    alarm: AlarmRule = Field(default_factory=AlarmRule)

    @model_validator(mode="after")
    def _has_what_it_draws(self) -> Spec:
        if not self.panels and self.options.has_panels:
            raise ValueError("no panels: name at least one panel with one series")
        titles = [panel.title for panel in self.panels]
        for mark in getattr(self.options, "marks", []):
            if mark.panel is not None and mark.panel not in titles:
                raise ValueError(f"options: marks: unknown panel '{mark.panel}'{nearest(mark.panel, titles)}")
        return self

    def name(self, dataset: str) -> str:
        """How a data set is called in the figure: `options.names`, else its own name."""
        return self.options.names.get(dataset, dataset)

    def where(self) -> str:
        """How errors name this figure."""
        return f"figure '{self.figure}'"


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """Check a raw spec and give it types; the first fault is a `SrtError` that names figure, key and fix.

    Keys: figure, kind, title, metric ("avg" | "maj"), datasets, average (bool: one curve of the mean of the data
    sets' means, or one panel per data set), panels [{title, datasets?, suite?, series [{run, label, method, seed,
    metrics, datasets?, points [{step, groups}]}]}], options (of the kind), alarm (keys of the collapse alarm's rule
    that are not at their default).
    """
    where, kind = f"figure '{raw.get('figure', '?')}'", str(raw.get("kind", ""))
    if kind not in OPTIONS:
        raise SrtError(f"{where}: kind '{kind}' is unknown{nearest(kind, OPTIONS)}")
    model: type[Options] = ExamplesSpecOptions if kind == "examples" else OPTIONS[kind]
    try:
        options = parse_options(kind, model, raw.get("options") or {})
        titled = {**raw, "title": raw.get("title") or raw.get("figure"), "options": options}
        return Spec.model_validate(_with_datasets(titled, "panels"))
    except ValidationError as error:
        raise SrtError(f"{where}: {first_problem(Spec, error)}") from None
    except ValueError as error:
        raise SrtError(f"{where}: options: {error}") from None
