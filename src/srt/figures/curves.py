"""Accuracy against the RL step (Figs. 2, 6, 7, 8, 10-15, 17; v2: 2-4, 6, 8, 17-22, 30, 32-34).

With `average`, one panel per panel of the spec: the mean over data sets. Without, one panel per data set. Several
metrics are rows of panels. Lines are means over seeds; the band of one seed is its 95 % interval over
problems, that of several their range, with the interval over problems and seeds (`srt.metrics.intervals`) as thin
edges. Triangles mark where the collapse alarm rings, rings where early stopping would stop, grey lines what the paper
states.

Options
    names                  {data set: name in the figure}
    metrics                rows of panels: "avg", "maj", "parsed", "correct_parsed"; default: the figure's metric
    validation_dataset     dashed vertical lines at the step where this set's value is best (ties: the earliest), one
                           per seed of the panel's first run, as in Fig. 6, instead of rings; the set need not be drawn
    marks                  the paper's statements (`srt.figures.annotations`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from srt.config.figures import CurvesOptions
from srt.figures import style
from srt.figures.annotations import STOP, Cell, draw_alarms, draw_paper_statements, draw_stops
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Panel, Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    options: CurvesOptions = spec.options
    metrics = options.metrics or [spec.metric]
    data = [FigureData(spec) for _ in spec.panels]  # models may be sampled with another n each
    row = [(number, panel, sets) for number, panel in enumerate(spec.panels) for sets in _columns(spec, panel)]
    places = [(metric, *place) for metric in metrics for place in row]
    columns = len(row) if len(metrics) > 1 else None
    if len(metrics) == 1 and len(spec.panels) > 1 and not spec.average:
        columns = len(_columns(spec, spec.panels[0]))
    # One scale where all panels show the same sets; another task, or another model's, has its own.
    alike = spec.average and len({panel.datasets for panel in spec.panels}) == 1
    figure, axes = style.grid(len(places), columns=columns, sharey="row" if alike else False)
    looks = style.looks(*([(series.label, series.method) for series in panel.series] for panel in spec.panels))
    cells = [
        Cell(axis, data[number], panel, sets, metric, metric == metrics[0], panel.groups_of_seeds(), looks)
        for axis, (metric, number, panel, sets) in zip(axes, places, strict=True)
    ]

    rows: list[pd.DataFrame] = []
    tops: dict[str, float] = dict.fromkeys(metrics, 0.0)
    named: dict[str, str] = {}  # by metric, what the first panel of the row says at its axis
    for position, cell in enumerate(cells):
        drawn, top, label = _draw_cell(cell)
        rows += drawn
        tops[cell.quantity] = max(tops[cell.quantity], top)
        if cell.is_first:
            cell.axis.set_title(_title(spec, cell.panel, cell.datasets), pad=8)  # over the alarm's triangle
        style.step_axis(cell.axis)
        if cell.quantity != metrics[-1]:
            cell.axis.set_xlabel("")
        first = position % len(row) == 0
        if first or not alike or named.setdefault(cell.quantity, label) != label:
            cell.axis.set_ylabel(_y_label(label, cell.datasets))
            named.setdefault(cell.quantity, label)
        if not alike:
            style.fraction_axis([cell.axis], top)
    if alike:
        for metric in metrics:
            style.fraction_axis([cell.axis for cell in cells if cell.quantity == metric], tops[metric])
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _draw_cell(cell: Cell) -> tuple[list[pd.DataFrame], float, str]:
    """Curves and marks of one pair of axes: their rows, the height that they need, and the name of the metric."""
    spec, panel, datasets = cell.data.spec, cell.panel, cell.datasets
    rows, top, name = [], 0.0, ""
    curves: dict[str, pd.DataFrame] = {}
    for rank, (label, seeds) in enumerate(cell.groups.items()):
        curve = curves[label] = cell.data.curve(seeds, datasets, cell.quantity)
        style.draw_curve(cell.axis, cell.data.drawn(seeds, curve), cell.looks[label], label, rank)
        top = max(top, curve[["hi", "seed_hi"]].max().max())
        name = cell.data.metric_label(datasets, cell.quantity)
        rows.append(identify(curve, panel=panel.title, seeds=seeds, dataset="+".join(datasets), quantity=name))
    if spec.options.validation_dataset is not None:
        rows += _validation_lines(cell)
    else:
        rows += draw_stops(cell, cell.quantity)
    alarms = draw_alarms(cell)
    rows += alarms if cell.is_first and datasets == _columns(spec, panel)[0] else []  # listed once per panel
    stated, height = draw_paper_statements(cell, curves)
    return rows + stated, max(top, height), name


def _columns(spec: Spec, panel: Panel) -> list[tuple[str, ...]]:
    return [panel.datasets] if spec.average else [(dataset,) for dataset in panel.datasets]


def _title(spec: Spec, panel: Panel, datasets: tuple[str, ...]) -> str:
    if spec.average:
        return panel.title
    name = spec.name(datasets[0])
    return f"{panel.title}: {name}" if len(spec.panels) > 1 else name


def _y_label(metric: str, datasets: tuple[str, ...]) -> str:
    return f"{metric}, mean of {len(datasets)} sets" if len(datasets) > 1 else metric


def _validation_lines(cell: Cell) -> list[pd.DataFrame]:
    """Draw and return, for each seed of the panel's first run, the step at which the validation set's value is best."""
    spec, title = cell.data.spec, cell.panel.title
    options: CurvesOptions = spec.options
    dataset = str(options.validation_dataset)
    rows = []
    for run in next(iter(cell.groups.values())):
        step = cell.data.stop(run, dataset, spec.metric)
        curve = cell.data.curve([run], (dataset,), spec.metric)
        cell.axis.axvline(
            step, color="black", linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5,
            label=f"{STOP}: best on {spec.name(dataset)}", gid=style.MARK,
        )  # fmt: skip
        rows.append(identify(curve[curve.step == step], panel=title, seeds=[run], dataset=dataset, quantity=STOP))
    return rows
