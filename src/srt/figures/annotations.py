"""What a figure marks beside its curves: statements of the paper, the collapse alarm, early stopping.

Each function draws on one pair of axes and returns the rows of the CSV that list what it drew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.config.figures import Mark
from srt.figures import style
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lines at a height, in the order of the figure's marks.
_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (9, 3)))
ALARM, STOP = "collapse alarm", "early stopping"


@dataclass(frozen=True)
class Cell:
    """One pair of axes of a figure.

    quantity: the metric or training quantity that it shows; is_first: it is the figure's first, and so the one with
    the marks that name no quantity. groups: the seeds of each line by its label; looks: the look of each label.
    """

    axis: Axes
    data: FigureData
    panel: Panel
    datasets: tuple[str, ...]
    quantity: str
    is_first: bool
    groups: Mapping[str, Sequence[Series]]
    looks: Mapping[str, style.Look]

    def shows(self, mark: Mark) -> bool:
        """Whether a statement of the paper belongs here."""
        if mark.panel not in (None, self.panel.title):
            return False
        if mark.dataset is not None and mark.dataset not in self.datasets:
            return False
        if mark.quantity is not None:
            return mark.quantity == self.quantity
        return mark.step is not None or self.is_first


def draw_paper_statements(
    cell: Cell, curves: Mapping[str, pd.DataFrame], extent: tuple[float, float] | None = None
) -> tuple[list[pd.DataFrame], float]:
    """Draw the paper's statements that belong to a cell; returns their rows and the height of the highest.

    Args:
        curves: the curves of the cell by label, for marks that are a multiple of one's first or last value.
        extent: the steps that lines at a height reach over; None: the whole axis.
    """
    marks = cell.data.spec.options.marks
    heights = list(dict.fromkeys(mark.label for mark in marks if mark.step is None))
    rows, top = [], 0.0
    for mark in filter(cell.shows, marks):
        label = f"{mark.label} ({mark.source})" if mark.source else mark.label
        row: dict[str, Any] = {"panel": cell.panel.title, "dataset": "+".join(cell.datasets), "quantity": mark.label}
        row["source"] = mark.source
        line = {"label": label, "color": style.GREY, "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 1.5}
        if mark.to is not None:
            span = {"label": label, "color": style.LIGHT, "alpha": 0.6, "linewidth": 0, "zorder": 0.5}
            cell.axis.axvspan(mark.step, mark.to, **span)
            row |= {"step": mark.step, "step_end": mark.to}
        elif mark.step is not None:
            cell.axis.axvline(mark.step, **line)
            row |= {"step": mark.step}
        else:
            height = mark.value if mark.value is not None else _multiple(mark, cell, curves)
            line |= {"linestyle": _DASHES[heights.index(mark.label) % len(_DASHES)], "linewidth": 0.9}
            if extent is None:
                cell.axis.axhline(height, **line)
            else:
                cell.axis.plot(extent, [height, height], **line)
            row |= {"value": height}
            top = max(top, height)
        rows.append(pd.DataFrame([row]))
    return rows, top


def _multiple(mark: Mark, cell: Cell, curves: Mapping[str, pd.DataFrame]) -> float:
    """`times` the first or last value of a curve."""
    label = mark.series or next(iter(curves))
    if label not in curves:
        where = f"{cell.data.spec.where()}: options.marks"
        raise SrtError(f"{where}: no series of the panel is called '{label}'{nearest(label, curves)}")
    value = curves[label]["value"].iloc[-1 if mark.of == "end" else 0]
    return mark.times * float(value)


def draw_alarms(cell: Cell) -> list[pd.DataFrame]:
    """A triangle at the top of the axis, and a dotted line, where the label-free alarm rings in a run."""
    rows = []
    for label, run in _runs(cell):
        step = cell.data.alarm(run) if run.metrics is not None else None
        if step is None:
            continue
        place, color = step + run.offset, cell.looks[label].color
        cell.axis.axvline(place, color=color, linewidth=0.7, linestyle=(0, (1, 1.2)), alpha=0.8, zorder=1.4)
        cell.axis.plot(
            [place], [1.0], transform=cell.axis.get_xaxis_transform(), marker="v", markersize=5, color=color,
            markeredgecolor="white", markeredgewidth=0.4, linestyle="none", clip_on=False, zorder=5,
        )  # fmt: skip
        frame = pd.DataFrame([{"step": place, "n_seeds": 1}])
        rows.append(identify(frame, panel=cell.panel.title, seeds=[run], dataset="", quantity=ALARM))
    if rows:  # for the legend
        cell.axis.plot(
            [], [], color=style.GREY, marker="v", markersize=5, linestyle=(0, (1, 1.2)), linewidth=0.7, label=ALARM,
            gid=style.MARK,
        )  # fmt: skip
    return rows


def draw_stops(cell: Cell, metric: str) -> list[pd.DataFrame]:
    """A ring on each run that names a validation set, at the step that is best there and the run's value at it."""
    rows = []
    ring = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.1, "linestyle": "none"}
    for label, run in _runs(cell):
        if run.validation is None:
            continue
        step = cell.data.stop(run, run.validation.dataset, run.validation.metric)
        points = tuple(point for point in run.points if point.step == step)
        at = cell.data.curve([run.model_copy(update={"points": points})], cell.datasets, metric)
        cell.axis.plot(at.step, at.value, markeredgecolor=cell.looks[label].color, zorder=4, **ring)
        dataset = "+".join(cell.datasets)
        rows.append(identify(at, panel=cell.panel.title, seeds=[run], dataset=dataset, quantity=STOP))
    if rows:  # for the legend
        cell.axis.plot([], [], markeredgecolor=style.GREY, label=STOP, gid=style.MARK, **ring)
    return rows


def _runs(cell: Cell) -> list[tuple[str, Series]]:
    return [(label, run) for label, seeds in cell.groups.items() for run in seeds]
