"""Climbing levels (v2: Fig. 5): chains of runs, each from the last checkpoint of the one before.

One panel per chain; several metrics are rows, many chains of one metric are wrapped. The x axis adds up the steps from
the base model on. Each run is drawn on its own level's test set in the look of its method. So a new line starts where a
level begins: with the last model of one level, tested on the next. Level names are at the top where there are several,
and thin lines separate runs. Bands, triangles and grey lines as in `srt.figures.curves`.

Options
    names      {data set: name of the level}
    metrics    rows of panels: "avg", "maj", "parsed", "correct_parsed"; default: the figure's metric
    marks      the paper's statements (`srt.figures.annotations`); steps count from the base model
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from srt.config.figures import ClimbOptions
from srt.figures import style
from srt.figures.annotations import Cell, draw_alarms, draw_paper_statements
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Panel, Series, Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP_LABEL = "RL step from the base model"


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and its table, whose `step` counts from the base model and `step_of_run` from the run's start."""
    options: ClimbOptions = spec.options
    metrics = options.metrics or [spec.metric]
    data = FigureData(spec)
    places = [(metric, panel) for metric in metrics for panel in spec.panels]
    looks = style.looks(*([(series.label, series.method) for series in panel.series] for panel in spec.panels))
    columns = len(spec.panels) if len(metrics) > 1 or len(spec.panels) <= 4 else style.even_columns(len(places))
    figure, axes = style.grid(len(places), columns=columns, sharey=True)
    # a panel whose runs share their test sets is told by its title
    named_panels = {panel.title for panel in spec.panels if len({series.datasets for series in panel.series}) > 1}

    rows: list[pd.DataFrame] = []
    for place, (axis, (metric, panel)) in enumerate(zip(axes, places, strict=True)):
        is_first, label = metric == metrics[0], ""
        for seeds in panel.stages():
            first = seeds[0]
            cell = Cell(axis, data, panel, first.datasets, metric, is_first, {first.label: seeds}, looks)
            rows += _draw_run(cell, seeds)
            label = data.metric_label(first.datasets, metric)
        _levels(axis, spec, panel, is_first and panel.title in named_panels)
        if is_first:
            axis.set_title(panel.title, pad=16 if named_panels else 8)  # over the alarm's triangle
        style.step_axis(axis)
        axis.set_xlabel(STEP_LABEL if place + columns >= len(places) else "")
        axis.set_ylabel(label if place % columns == 0 else "")
    style.fraction_axis(axes, 1.0)
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _draw_run(cell: Cell, seeds: list[Series]) -> list[pd.DataFrame]:
    """One run of a chain, moved by the steps before it, with its marks; returns their rows."""
    first = seeds[0]
    curve = cell.data.curve(seeds, cell.datasets, cell.quantity)
    style.draw_curve(
        cell.axis, cell.data.drawn(seeds, curve), cell.looks[first.label], first.label, first.stage, offset=first.offset
    )
    placed = curve.assign(step_of_run=curve.step, step=curve.step + first.offset)
    name, dataset = cell.data.metric_label(cell.datasets, cell.quantity), "+".join(cell.datasets)
    rows = [identify(placed, panel=cell.panel.title, seeds=seeds, dataset=dataset, quantity=name)]
    alarms = draw_alarms(cell)
    rows += alarms if cell.is_first else []
    extent = (first.offset, first.offset + first.points[-1].step)
    return rows + draw_paper_statements(cell, {first.label: curve}, extent)[0]


def _levels(axis: Axes, spec: Spec, panel: Panel, named: bool) -> None:
    """A line where each level begins, and over it the level's name."""
    stages = panel.stages()
    ends = [seeds[0].offset + seeds[0].points[-1].step for seeds in stages]
    axis.set_xlim(-0.015 * ends[-1], 1.015 * ends[-1])
    for seeds, end in zip(stages, ends, strict=True):
        begin = seeds[0].offset
        if begin:
            axis.axvline(begin, color=style.LIGHT, linewidth=0.9, zorder=0.6)
        if named:
            name = ", ".join(spec.name(dataset) for dataset in seeds[0].datasets)
            axis.annotate(
                name, ((begin + end) / 2, 1.0), xycoords=axis.get_xaxis_transform(), xytext=(0, 5),
                textcoords="offset points", ha="center", va="bottom", fontsize=6.5, color=style.GREY,
            )  # fmt: skip
