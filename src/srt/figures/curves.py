"""Accuracy against the RL step (Figs. 2, 6, 7, 8, 10-15, 17; v2: 2-4, 6, 8, 17-22, 30, 32-34).

With `average`, one panel a panel of the spec: the mean over data sets. Without, one panel a data set. Several metrics
are rows of panels. Lines are means over seeds; the band of one seed is its 95 % bootstrap interval over problems, that
of several their range, with the interval over problems and seeds (`srt.metrics.intervals`) as thin edges. Triangles
mark where the collapse alarm rings, rings where early stopping would stop, grey lines what the paper states.

Options
    names                  {data set: name in the figure}
    metrics                rows of panels: "avg", "maj", "parsed", "correct_parsed"; default: the figure's metric
    validation_dataset     dashed vertical lines at the step where this set's value is best (ties: the earliest), one a
                           seed, as in Fig. 6, instead of rings; the set need not be drawn
    validation_series      whose best step that is (a label); default: the first label of the panel
    marks                  the paper's statements (`srt.figures.annotations`): [{"step": 400, "to": 600, "label":
    "..."},
                           {"value": 0.6, ...}, {"times": 2.0, "of": "start", ...}], each with "source", "panel",
                           "dataset", "quantity" if it belongs to some panels only
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.figures import style
from srt.figures.annotations import STOP, check_paper_statements, draw_alarms, draw_paper_statements, draw_stops
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Panel, Spec, check_options, check_panels, curve_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIONS = ("validation_dataset", "validation_series", "marks", "metrics")


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    check_options(spec, OPTIONS)
    check_panels(spec)
    check_paper_statements(spec)
    metrics = curve_metrics(spec)
    files = {panel: FigureData(spec) for panel in range(len(spec.panels))}  # models may be sampled with another n each
    row_of_cells = [(i, panel, sets) for i, panel in enumerate(spec.panels) for sets in _columns(spec, panel)]
    cells = [(metric, *cell) for metric in metrics for cell in row_of_cells]
    look = style.looks(*([(series.label, series.method) for series in panel.series] for panel in spec.panels))
    columns = len(row_of_cells) if len(metrics) > 1 else None
    if len(metrics) == 1 and len(spec.panels) > 1 and not spec.average:
        columns = len(_columns(spec, spec.panels[0]))
    # One scale where all panels show the same sets; another task, or another model's, has its own.
    alike = spec.average and len({panel.datasets for panel in spec.panels}) == 1
    figure, axes = style.grid(len(cells), columns=columns, sharey="row" if alike else False)

    rows: list[pd.DataFrame] = []
    tops: dict[str, float] = dict.fromkeys(metrics, 0.0)
    named: dict[str, str] = {}  # by metric, what the first panel of the row says at its axis
    for position, (axis, (metric, number, panel, datasets)) in enumerate(zip(axes, cells, strict=True)):
        best, data = 0.0, files[number]
        groups = panel.groups_of_seeds()
        curves: dict[str, pd.DataFrame] = {}
        label_of_metric = ""
        for rank, (label, seeds) in enumerate(groups.items()):
            curve = curves[label] = data.curve(seeds, datasets, metric)
            style.draw_curve(axis, curve, look[label], label, rank)
            best = max(best, curve[["hi", "seed_hi"]].max().max())
            label_of_metric = data.metric_label(datasets, metric)
            rows.append(
                identify(curve, panel=panel.title, seeds=seeds, dataset="+".join(datasets), quantity=label_of_metric)
            )
        if "validation_dataset" in spec.options:
            rows += _validation_lines(axis, spec, panel, data)
        else:
            rows += draw_stops(axis, data, panel, groups, look, datasets, metric)
        alarms = draw_alarms(axis, data, panel, groups, look)
        rows += alarms if (metric, datasets) == (metrics[0], _columns(spec, panel)[0]) else []  # listed once a panel
        stated, height = draw_paper_statements(axis, spec, panel.title, datasets, metric, curves, metric == metrics[0])
        rows += stated
        best = max(best, height)
        if metric == metrics[0]:
            axis.set_title(_title(spec, panel, datasets), pad=8)  # over the alarm's triangle
        style.step_axis(axis)
        if metric != metrics[-1]:
            axis.set_xlabel("")
        first = position % len(row_of_cells) == 0
        if first or not alike or named.setdefault(metric, label_of_metric) != label_of_metric:
            axis.set_ylabel(_y_label(label_of_metric, datasets))
            named.setdefault(metric, label_of_metric)
        if not alike:
            style.fraction_axis([axis], best)
        tops[metric] = max(tops[metric], best)
    if alike:
        for metric in metrics:
            style.fraction_axis(
                [axis for axis, cell in zip(axes, cells, strict=True) if cell[0] == metric], tops[metric]
            )
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _columns(spec: Spec, panel: Panel) -> list[tuple[str, ...]]:
    return [panel.datasets] if spec.average else [(dataset,) for dataset in panel.datasets]


def _title(spec: Spec, panel: Panel, datasets: tuple[str, ...]) -> str:
    if spec.average:
        return panel.title
    name = spec.name(datasets[0])
    return f"{panel.title}: {name}" if len(spec.panels) > 1 else name


def _y_label(metric: str, datasets: tuple[str, ...]) -> str:
    return f"{metric}, mean of {len(datasets)} sets" if len(datasets) > 1 else metric


def _validation_lines(axis: Axes, spec: Spec, panel: Panel, data: FigureData) -> list[pd.DataFrame]:
    """Draw and return, for each seed, the step at which the validation set's value is best."""
    dataset = str(spec.options["validation_dataset"])
    groups = panel.groups_of_seeds()
    label = str(spec.options.get("validation_series", next(iter(groups))))
    if label not in groups:
        where = f"{spec.where()}, panel '{panel.title}'"
        raise SrtError(f"{where}: no series is called '{label}' (options.validation_series){nearest(label, groups)}")
    rows = []
    for run in groups[label]:
        step = data.stop(run, dataset, spec.metric)
        curve = data.curve([run], (dataset,), spec.metric)
        axis.axvline(
            step, color="black", linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5,
            label=f"{STOP}: best on {spec.name(dataset)}",
        )  # fmt: skip
        best = curve[curve.step == step]
        rows.append(identify(best, panel=panel.title, seeds=[run], dataset=dataset, quantity=STOP))
    return rows
