"""Training dynamics: test accuracy, training reward and KL penalty of the same runs (Figs. 3, 5, 16).

One row per panel of the spec, one column per quantity. Accuracy is the mean over data sets with the band of
`srt.figures.curves`. Training quantities have one number per step: the line is a centred running mean of the seeds'
mean, the band the range of the seeds (none for one seed), and a thin line behind shows the unsmoothed mean. Triangles
mark where the collapse alarm rings, rings where early stopping would stop.

Options
    names         {data set: name in the figure}
    quantities    which columns, in order; default ["accuracy", "reward", "kl"]; others are columns of the training
                  metrics (`QUANTITIES`)
    smooth        window of the running mean in logged steps (odd); default 1 up to 100 steps, then about a fiftieth
    marks         the paper's statements (`srt.figures.annotations`); "quantity" says in which column
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.config.figures import DynamicsOptions
from srt.figures import style
from srt.figures.annotations import Cell, draw_alarms, draw_paper_statements, draw_stops
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Series, Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Column of the training metrics -> axis label.
QUANTITIES = {
    "reward": "training (pseudo-)reward",
    "kl": "KL penalty",
    "entropy": "entropy (nats per token)",
    "true_accuracy": "training accuracy",
    "label_accuracy": "label accuracy",
    "reward_accuracy": "reward accuracy",
    "majority_ratio": "majority share",
    "parsed_rate": "share with an answer",
    "truncated_rate": "share cut off",
    "response_length": "response length (tokens)",
    "grad_norm": "gradient norm",
}
_FRACTIONS = {
    "reward", "true_accuracy", "label_accuracy", "reward_accuracy", "majority_ratio", "parsed_rate", "truncated_rate",
}  # fmt: skip


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    options: DynamicsOptions = spec.options
    quantities = options.quantities
    data = FigureData(spec)
    looks = style.looks(*([(series.label, series.method) for series in panel.series] for panel in spec.panels))
    figure, axes = style.grid(len(spec.panels) * len(quantities), columns=len(quantities), sharex="row")

    rows: list[pd.DataFrame] = []
    tops, lows = dict.fromkeys(quantities, 0.0), dict.fromkeys(quantities, 0.0)
    for index, axis in enumerate(axes):
        panel, quantity = spec.panels[index // len(quantities)], quantities[index % len(quantities)]
        is_first = quantity == quantities[0]
        cell = Cell(axis, data, panel, panel.datasets, quantity, is_first, panel.groups_of_seeds(), looks)
        drawn, low, top = _draw_cell(cell)
        rows += drawn
        lows[quantity], tops[quantity] = min(lows[quantity], low), max(tops[quantity], top)
        axis.set_ylabel(_label(data, quantity, panel.datasets))
        style.step_axis(axis)
        if len(spec.panels) > 1 and is_first:
            axis.set_title(panel.title, loc="left")
    for index, axis in enumerate(axes):
        quantity = quantities[index % len(quantities)]
        # a reward for confidence is a share of nothing: it has its own scale
        if (quantity == "accuracy" or quantity in _FRACTIONS) and lows[quantity] >= 0 and tops[quantity] <= 1:
            style.fraction_axis([axis], tops[quantity])
        else:
            if lows[quantity] >= 0:
                axis.set_ylim(bottom=0)
            axis.locator_params(axis="y", nbins=5)
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _draw_cell(cell: Cell) -> tuple[list[pd.DataFrame], float, float]:
    """Curves and marks of one pair of axes: their rows, and the lowest and highest value that they reach."""
    rows, low, top = [], 0.0, 0.0
    curves = {}
    for rank, (label, seeds) in enumerate(cell.groups.items()):
        curve, name, dataset = _draw_line(cell, label, seeds, rank)
        curves[label] = curve
        low = min(low, np.nanmin(curve["value"], initial=0.0))
        top = max(top, np.nanmax(curve[["value", "hi"]].to_numpy(), initial=0.0))
        rows.append(identify(curve, panel=cell.panel.title, seeds=seeds, dataset=dataset, quantity=name))
    if cell.quantity == "accuracy":
        rows += draw_stops(cell, cell.data.spec.metric)
    alarms = draw_alarms(cell)
    rows += alarms if cell.is_first else []  # listed once per panel
    stated, height = draw_paper_statements(cell, curves)
    return rows + stated, low, max(top, height)


def _draw_line(cell: Cell, label: str, seeds: Sequence[Series], rank: int) -> tuple[pd.DataFrame, str, str]:
    """One line: its curve, and the quantity and the data sets that its rows name."""
    look = cell.looks[label]
    if cell.quantity == "accuracy":
        curve = cell.data.curve(seeds, cell.datasets)
        style.draw_curve(cell.axis, cell.data.drawn(seeds, curve), look, label, rank)
        return curve, cell.data.metric_label(cell.datasets), "+".join(cell.datasets)
    curve = _training(cell.data, seeds, cell.quantity)
    if not np.array_equal(curve["raw"], curve["value"], equal_nan=True):
        cell.axis.plot(curve.step, curve.raw, color=look.color, linewidth=0.5, alpha=0.35)
    look = replace(look, marker="none")  # one point per step needs no markers
    style.draw_line(cell.axis, curve.step, curve.value, curve.lo, curve.hi, look, label, rank)
    return curve, cell.quantity, ""


def _label(data: FigureData, quantity: str, datasets: tuple[str, ...]) -> str:
    if quantity != "accuracy":
        return QUANTITIES[quantity]
    label = f"test {data.metric_label(datasets)}"
    return f"{label} ({len(datasets)} sets)" if len(datasets) > 1 else label


def _training(data: FigureData, seeds: Sequence[Series], name: str) -> pd.DataFrame:
    """One training quantity over the seeds: step, value (smoothed mean), lo, hi (range of seeds), n_seeds, raw.

    Seeds that are still in training, or that their alarm ended (`on_alarm`), cut all to the steps that they share: a
    mean over fewer seeds would jump there.
    """
    spec = data.spec
    frames = [data.training(run, [name]).set_index("step")[name] for run in seeds]
    wide = pd.concat(frames, axis=1, join="inner").sort_index()
    if wide.empty:
        label = seeds[0].label
        raise SrtError(
            f"{spec.where()}: the seeds of '{label}' share no logged training step; train them to the same step"
        )
    values = wide.to_numpy(np.float64)
    for run, column in zip(seeds, values.T, strict=True):
        if not np.isfinite(column).any():
            raise SrtError(
                f"{spec.where()}: {run.metrics} has no value of '{name}' at any step; take it out of options.quantities"
            )
    window = spec.options.smooth or (1 if len(values) <= 100 else len(values) // 50 | 1)
    smooth = np.column_stack([running_mean(values[:, i], window) for i in range(values.shape[1])])
    several = smooth.shape[1] > 1
    nothing = np.full(len(smooth), np.nan)
    return pd.DataFrame(
        {
            "step": wide.index.to_numpy(),
            "value": smooth.mean(axis=1),
            "lo": smooth.min(axis=1) if several else nothing,
            "hi": smooth.max(axis=1) if several else nothing,
            "n_seeds": smooth.shape[1],
            "raw": values.mean(axis=1),
        }
    )


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` entries (fewer at the ends); NaN entries are left out, all-NaN windows stay NaN.

    >>> running_mean(np.array([0.0, 3.0, 6.0]), 3)
    array([1.5, 3. , 4.5])
    """
    present = np.isfinite(values)
    kernel = np.ones(window)
    half = window // 2
    total = np.convolve(np.where(present, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(present.astype(float), kernel)[half : half + len(values)]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)
