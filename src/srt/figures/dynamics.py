"""Training dynamics: held-out accuracy, training reward and KL penalty of the same runs (Figs. 3, 5, 16).

One row a panel of the spec, one column a quantity. Accuracy is the mean over data sets with the band of
`srt.figures.curves`. Training quantities are one number a step: the line is a centred running mean of the seeds'
mean, the band the range of the seeds (none for one seed), and the unsmoothed mean stays behind the line, thin.
Triangles mark where the collapse alarm rings, rings where early stopping would stop.

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

from srt.common.errors import SrtError, nearest
from srt.figures import style
from srt.figures.annotations import check_paper_statements, draw_alarms, draw_paper_statements, draw_stops
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Series, Spec, check_options, check_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS = ("quantities", "smooth", "marks")
DEFAULT = ("accuracy", "reward", "kl")
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
    check_options(spec, OPTIONS)
    check_panels(spec)
    check_paper_statements(spec)
    quantities = _quantities(spec)
    columns = [name for name in quantities if name != "accuracy"]
    data = FigureData(spec)
    look = style.looks(*([(series.label, series.method) for series in panel.series] for panel in spec.panels))
    figure, axes = style.grid(len(spec.panels) * len(quantities), columns=len(quantities), sharex="row")

    rows = []
    tops, lows = dict.fromkeys(quantities, 0.0), dict.fromkeys(quantities, 0.0)
    for index, axis in enumerate(axes):
        panel, quantity = spec.panels[index // len(quantities)], quantities[index % len(quantities)]
        groups = panel.groups_of_seeds()
        curves = {}
        for rank, (label, seeds) in enumerate(groups.items()):
            line = look[label]
            if quantity == "accuracy":
                curve = data.curve(seeds, panel.datasets)
                name, dataset = data.metric_label(panel.datasets), "+".join(panel.datasets)
            else:
                curve = _training(data, seeds, columns, quantity, spec)
                name, dataset, line = quantity, "", replace(line, marker="none")  # a point a step needs no markers
                if not np.array_equal(curve["raw"], curve["value"], equal_nan=True):
                    axis.plot(curve.step, curve.raw, color=line.color, linewidth=0.5, alpha=0.35)
            if quantity == "accuracy":
                style.draw_curve(axis, curve, line, label, rank)
            else:
                style.draw_line(axis, curve.step, curve.value, curve.lo, curve.hi, line, label, rank)
            curves[label] = curve
            lows[quantity] = min(lows[quantity], np.nanmin(curve["value"], initial=0.0))
            tops[quantity] = max(tops[quantity], np.nanmax(curve[["value", "hi"]].to_numpy(), initial=0.0))
            rows.append(identify(curve, panel=panel.title, seeds=seeds, dataset=dataset, quantity=name))
        if quantity == "accuracy":
            rows += draw_stops(axis, data, panel, groups, look, panel.datasets, spec.metric)
        alarms = draw_alarms(axis, data, panel, groups, look)
        rows += alarms if quantity == quantities[0] else []  # listed once a panel
        stated, height = draw_paper_statements(
            axis, spec, panel.title, panel.datasets, quantity, curves, quantity == quantities[0]
        )  # fmt: skip
        rows += stated
        tops[quantity] = max(tops[quantity], height)
        axis.set_ylabel(_label(data, quantity, panel.datasets))
        style.step_axis(axis)
        if len(spec.panels) > 1 and index % len(quantities) == 0:
            axis.set_title(panel.title, loc="left")
    for index, axis in enumerate(axes):
        quantity = quantities[index % len(quantities)]
        if quantity == "accuracy" or quantity in _FRACTIONS:
            style.fraction_axis([axis], tops[quantity])
        else:
            if lows[quantity] >= 0:
                axis.set_ylim(bottom=0)
            axis.locator_params(axis="y", nbins=5)
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _quantities(spec: Spec) -> list[str]:
    quantities = list(spec.options.get("quantities", DEFAULT))
    known = ["accuracy", *QUANTITIES]
    for name in quantities:
        if name not in known:
            raise SrtError(f"{spec.where()}: options.quantities has the unknown '{name}'{nearest(name, known)}")
    if not quantities or len(set(quantities)) != len(quantities):
        raise SrtError(f"{spec.where()}: options.quantities must name at least one quantity, each once")
    return quantities


def _label(data: FigureData, quantity: str, datasets: tuple[str, ...]) -> str:
    if quantity != "accuracy":
        return QUANTITIES[quantity]
    label = f"held-out {data.metric_label(datasets)}"
    return f"{label} ({len(datasets)} sets)" if len(datasets) > 1 else label


def _training(data: FigureData, seeds: Sequence[Series], columns: list[str], name: str, spec: Spec) -> pd.DataFrame:
    """One training quantity over the seeds: step, value (smoothed mean), lo, hi (range of seeds), n_seeds, raw.

    Seeds that are still in training, or that their alarm ended (`on_alarm`), cut all to the steps that they share: a
    mean over fewer seeds would jump there.
    """
    frames = [data.training(run, columns).set_index("step")[name] for run in seeds]
    wide = pd.concat(frames, axis=1, join="inner").sort_index()
    if wide.empty:
        label = seeds[0].label
        raise SrtError(f"{spec.where()}: the seeds of '{label}' share no logged training step; train them alike")
    values = wide.to_numpy(np.float64)
    for run, column in zip(seeds, values.T, strict=True):
        if not np.isfinite(column).any():
            raise SrtError(
                f"{spec.where()}: {run.metrics} has no value of '{name}' at any step; take it out of options.quantities"
            )
    window = _window(spec, len(values))
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


def _window(spec: Spec, steps: int) -> int:
    window = spec.options.get("smooth", 1 if steps <= 100 else steps // 50 | 1)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise SrtError(f"{spec.where()}: options.smooth must be an odd whole number of at least 1, not {window!r}")
    return window


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
