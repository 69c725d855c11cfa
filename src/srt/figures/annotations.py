"""What a figure marks beside its curves: statements of the paper, the collapse alarm, early stopping.

Each function draws on one axis and returns the rows that the CSV gets, so that all that is drawn is also listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.figures import style
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Panel, Series, Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEYS = ("step", "to", "value", "times", "of", "series", "label", "source", "panel", "dataset", "quantity")
_PLACES = ("step", "value", "times")
# Of lines at a height, in the order of the figure's marks.
_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (9, 3)))
ALARM, STOP = "collapse alarm", "early stopping"


def check_paper_statements(spec: Spec) -> None:
    """Refuse a mark that lacks its place or its label, or names what the figure does not show."""
    marks = spec.options.get("marks", [])
    if not isinstance(marks, list):
        raise SrtError(f"{spec.where()}: options.marks must be a list, not {marks!r}")
    for mark in marks:
        where = f"{spec.where()}: options.marks"
        if not isinstance(mark, dict) or "label" not in mark or sum(place in mark for place in _PLACES) != 1:
            raise SrtError(
                f"{spec.where()}: each of options.marks needs 'step' and 'label' (or 'value' or 'times' for 'step'), "
                f"not {mark!r}"
            )
        for key in mark:
            if key not in KEYS:
                raise SrtError(f"{where} has no key '{key}'{nearest(key, KEYS)}")
        titles = [panel.title for panel in spec.panels]
        if mark.get("panel") is not None and mark["panel"] not in titles:
            raise SrtError(f"{where} names the unknown panel '{mark['panel']}'{nearest(mark['panel'], titles)}")


def draw_paper_statements(
    axis: Axes,
    spec: Spec,
    panel: str,
    datasets: Sequence[str],
    quantity: str,
    curves: Mapping[str, pd.DataFrame],
    first: bool = True,
    extent: tuple[float, float] | None = None,
) -> tuple[list[pd.DataFrame], float]:
    """Draw the marks that belong to this axis; returns their rows and the height of the highest.

    Args:
        quantity: the metric or training quantity of the axis; `first`: it is the figure's first.
        curves: the curves on the axis by label, for marks that are a multiple of one's first or last value.
        extent: the steps that lines at a height reach over; None: the whole axis.
    """
    rows, top = [], 0.0
    heights = list(dict.fromkeys(mark["label"] for mark in spec.options.get("marks", []) if "step" not in mark))
    for mark in spec.options.get("marks", []):
        if mark.get("panel", panel) != panel or mark.get("dataset", datasets[0] if datasets else None) not in datasets:
            continue
        if not (mark["quantity"] == quantity if "quantity" in mark else "step" in mark or first):
            continue
        label = f"{mark['label']} ({mark['source']})" if mark.get("source") else str(mark["label"])
        row: dict[str, Any] = {"panel": panel, "dataset": "+".join(datasets), "quantity": mark["label"]}
        row["source"] = mark.get("source")
        dotted = {"color": style.GREY, "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 1.5}
        if "step" in mark and "to" in mark:
            axis.axvspan(
                mark["step"], mark["to"], label=label, color=style.LIGHT, alpha=0.6, linewidth=0, zorder=0.5
            )  # fmt: skip
            row |= {"step": mark["step"], "step_end": mark["to"]}
        elif "step" in mark:
            axis.axvline(mark["step"], label=label, **dotted)
            row |= {"step": mark["step"]}
        else:
            height = float(mark["value"]) if "value" in mark else _multiple(mark, spec, curves)
            dashed = {**dotted, "linestyle": _DASHES[heights.index(mark["label"]) % len(_DASHES)], "linewidth": 0.9}
            if extent is None:
                axis.axhline(height, label=label, **dashed)
            else:
                axis.plot(extent, [height, height], label=label, **dashed)
            row |= {"value": height}
            top = max(top, height)
        rows.append(pd.DataFrame([row]))
    return rows, top


def _multiple(mark: Mapping[str, Any], spec: Spec, curves: Mapping[str, pd.DataFrame]) -> float:
    """`times` the first or last value of a curve."""
    label = str(mark.get("series") or next(iter(curves)))
    if label not in curves:
        raise SrtError(
            f"{spec.where()}: options.marks: no series of the panel is called '{label}'{nearest(label, curves)}"
        )
    value = curves[label]["value"].iloc[-1 if mark.get("of", "start") == "end" else 0]
    return float(mark["times"]) * float(value)


def draw_alarms(
    axis: Axes, data: FigureData, panel: Panel, groups: Mapping[str, Sequence[Series]], looks: Mapping[str, style.Look]
) -> list[pd.DataFrame]:
    """A triangle at the top of the axis, and a dotted line, where the label-free alarm rings in a run."""
    rows = []
    for label, seeds in groups.items():
        for run in seeds:
            step = data.alarm(run) if run.metrics is not None else None
            if step is None:
                continue
            color = looks[label].color
            axis.axvline(step + run.offset, color=color, linewidth=0.7, linestyle=(0, (1, 1.2)), alpha=0.8, zorder=1.4)
            axis.plot(
                [step + run.offset], [1.0], transform=axis.get_xaxis_transform(), marker="v", markersize=5, color=color,
                markeredgecolor="white", markeredgewidth=0.4, linestyle="none", clip_on=False, zorder=5,
            )  # fmt: skip
            frame = pd.DataFrame([{"step": step + run.offset, "n_seeds": 1}])
            rows.append(identify(frame, panel=panel.title, seeds=[run], dataset="", quantity=ALARM))
    if rows:
        axis.plot(
            [], [], color=style.GREY, marker="v", markersize=5, linestyle=(0, (1, 1.2)), linewidth=0.7, label=ALARM
        )
    return rows


def draw_stops(
    axis: Axes,
    data: FigureData,
    panel: Panel,
    groups: Mapping[str, Sequence[Series]],
    looks: Mapping[str, style.Look],
    datasets: Sequence[str],
    metric: str,
) -> list[pd.DataFrame]:
    """A ring on each run that names a validation set, at the step that is best there and the run's value at it."""
    rows = []
    for label, seeds in groups.items():
        for run in seeds:
            if run.validation is None:
                continue
            step = data.stop(run, *run.validation)
            point = [point for point in run.points if point.step == step]
            at = data.curve([Series(**{**vars(run), "points": tuple(point)})], datasets, metric)
            axis.plot(
                at.step, at.value, marker="o", markersize=6.5, markerfacecolor="none", markeredgewidth=1.1,
                markeredgecolor=looks[label].color, linestyle="none", zorder=4,
            )  # fmt: skip
            rows.append(identify(at, panel=panel.title, seeds=[run], dataset="+".join(datasets), quantity=STOP))
    if rows:
        axis.plot(
            [], [], marker="o", markersize=6.5, markerfacecolor="none", markeredgecolor=style.GREY, markeredgewidth=1.1,
            linestyle="none", label=STOP,
        )  # fmt: skip
    return rows
