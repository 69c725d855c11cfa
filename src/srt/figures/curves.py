"""Accuracy against the RL step (Figs. 2, 6, 7, 8, 10-15, 17).

With `average`, one panel a panel of the spec: the mean over data sets. Without, one panel a data set. Lines are means
over seeds; bands are 95 % bootstrap intervals over problems and seeds (`srt.figures.intervals`).

Options
    names                  {data set: name in the figure}
    validation_dataset     a dashed vertical line at the step where this set's value is best (ties: the earliest), as in
                           Fig. 6; the set need not be drawn
    validation_series      whose best step that is (a label); default: the first label of the panel
    marks                  [{"step": 400, "to": 600, "label": "...", "panel": "..."}]: a grey line, or a span with "to",
                           in one panel (its title) or in all: a stated fact, an alarm
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from srt.errors import SrtError, nearest
from srt.figures import style
from srt.figures.load import Tables, identify
from srt.figures.spec import Panel, Spec, check_options, check_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIONS = ("validation_dataset", "validation_series", "marks")
_MARK_KEYS = ("step", "to", "label", "panel")


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    check_options(spec, OPTIONS)
    check_panels(spec)
    tables = Tables(spec)
    cells = [(panel, sets) for panel in spec.panels for sets in _columns(spec, panel)]
    look = style.looks([(series.label, series.method) for panel in spec.panels for series in panel.series])
    columns = len(_columns(spec, spec.panels[0])) if len(spec.panels) > 1 and not spec.average else None
    figure, axes = style.grid(len(cells), columns=columns, sharey=spec.average)

    rows, top = [], 0.0
    for position, (axis, (panel, datasets)) in enumerate(zip(axes, cells, strict=True)):
        best = 0.0
        for rank, (label, seeds) in enumerate(panel.groups_of_seeds().items()):
            curve = tables.curve(seeds, datasets)
            style.draw_line(axis, curve.step, curve.value, curve.lo, curve.hi, look[label], label, rank)
            best = max(best, curve.hi.max())
            rows.append(
                identify(curve, panel=panel.title, seeds=seeds, dataset="+".join(datasets),
                         quantity=tables.metric_label(datasets))
            )  # fmt: skip
        if "validation_dataset" in spec.options:
            rows.append(_early_stop(axis, spec, panel, tables))
        rows.extend(_marks(axis, spec, panel, datasets))
        axis.set_title(_title(spec, panel, datasets))
        style.step_axis(axis)
        if position == 0 or not spec.average:
            axis.set_ylabel(_y_label(spec, datasets, tables))
        if not spec.average:
            style.fraction_axis([axis], best)
        top = max(top, best)
    if spec.average:
        style.fraction_axis(axes, top)
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _columns(spec: Spec, panel: Panel) -> list[tuple[str, ...]]:
    return [panel.datasets] if spec.average else [(dataset,) for dataset in panel.datasets]


def _title(spec: Spec, panel: Panel, datasets: tuple[str, ...]) -> str:
    if spec.average:
        return panel.title
    name = spec.name(datasets[0])
    return f"{panel.title}: {name}" if len(spec.panels) > 1 else name


def _y_label(spec: Spec, datasets: tuple[str, ...], tables: Tables) -> str:
    label = tables.metric_label(datasets)
    return f"{label}, mean of {len(datasets)} sets" if len(datasets) > 1 else label


def _early_stop(axis: Axes, spec: Spec, panel: Panel, tables: Tables) -> pd.DataFrame:
    """Draw and return the step at which the validation set's value is best."""
    dataset = str(spec.options["validation_dataset"])
    groups = panel.groups_of_seeds()
    label = str(spec.options.get("validation_series", next(iter(groups))))
    if label not in groups:
        where = f"{spec.where()}, panel '{panel.title}'"
        raise SrtError(f"{where}: no series is called '{label}' (options.validation_series){nearest(label, groups)}")
    curve = tables.curve(groups[label], (dataset,))
    best = curve.loc[[curve.value.idxmax()]]
    axis.axvline(
        best.step.iloc[0], color="black", linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5,
        label=f"early stop: best on {spec.name(dataset)}",
    )  # fmt: skip
    return identify(best, panel=panel.title, seeds=groups[label], dataset=dataset, quantity="early stop")


def _marks(axis: Axes, spec: Spec, panel: Panel, datasets: tuple[str, ...]) -> list[pd.DataFrame]:
    """Draw the stated facts of `options.marks` that belong to this panel; value is the start, hi the end of a span."""
    rows = []
    for mark in spec.options.get("marks", []):
        _check_mark(mark, spec)
        if mark.get("panel", panel.title) != panel.title:
            continue
        if "to" in mark:
            look = {"color": style.LIGHT, "alpha": 0.6, "linewidth": 0, "zorder": 0.5}
            axis.axvspan(mark["step"], mark["to"], label=mark["label"], **look)
        else:
            look = {"color": style.GREY, "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 1.5}
            axis.axvline(mark["step"], label=mark["label"], **look)
        rows.append(
            pd.DataFrame(
                [{"panel": panel.title, "dataset": "+".join(datasets), "quantity": mark["label"],
                  "step": mark["step"], "step_end": mark.get("to")}]
            )
        )  # fmt: skip
    return rows


def _check_mark(mark: Any, spec: Spec) -> None:
    if not isinstance(mark, dict) or "step" not in mark or "label" not in mark:
        raise SrtError(f"{spec.where()}: each of options.marks needs 'step' and 'label', not {mark!r}")
    for key in mark:
        if key not in _MARK_KEYS:
            raise SrtError(f"{spec.where()}: options.marks has no key '{key}'{nearest(key, _MARK_KEYS)}")
    titles = [panel.title for panel in spec.panels]
    if "panel" in mark and mark["panel"] not in titles:
        known = nearest(mark["panel"], titles)
        raise SrtError(f"{spec.where()}: options.marks names the unknown panel '{mark['panel']}'{known}")
