"""The figure of `evaluate`: pass@k and maj@k of several checkpoints by k, one panel per data set.

It is drawn from the table of `srt.metrics.checkpoint_table`. Lines of one colour are one checkpoint: solid for pass@k,
dashed for maj@k; both begin at avg. Where no k is above 1 (greedy samples), bars show avg instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from srt.figures import style
from srt.metrics.checkpoint_table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Checkpoints: pass@k and maj@k"
LINES = {"pass": "-", "maj": (0, (3.0, 1.4))}
SHIFT = 0.04  # of points at one k, in powers of 2 per checkpoint, so that their whiskers stay apart


def draw_checkpoints(table: pd.DataFrame) -> dict[str, bytes]:
    """The figure as PDF and PNG, by suffix."""
    with style.house_style():
        figure = _draw(table)
        counts = [("n_problems", "problem"), ("n_seeds", "seed"), ("n", "response")]
        told = ", ".join(_range(table[column], unit) for column, unit in counts)
        style.note(figure, f"{told} per problem and seed; 95 % intervals over problems")
        return style.to_bytes(figure, TITLE)


def _draw(table: pd.DataFrame) -> Figure:
    models = list(dict.fromkeys(table["model"]))
    colors = [look.color for look in style.METHODS.values()]
    looks = {model: colors[place % len(colors)] for place, model in enumerate(models)}
    places = list(table.groupby(["suite", "dataset"], sort=False))
    several = table["suite"].nunique() > 1
    figure, axes = style.grid(len(places), sharey=True)
    curves = table["k"].where(table["metric"] != "avg").max() > 1
    for axis, ((suite, dataset), part) in zip(axes, places, strict=True):
        axis.set_title(f"{dataset} ({suite})" if several and suite not in (dataset, dataset[len(MEAN) :]) else dataset)
        for place, model in enumerate(models):
            rows, centre = part[part["model"] == model], place - (len(models) - 1) / 2
            if curves:
                _curves(axis, rows, model, looks[model], 2.0 ** (SHIFT * centre))
            else:
                _bar(axis, place, rows[rows["metric"] == "avg"].iloc[0], model, looks[model])
        if curves:
            _powers(axis, sorted(set(part["k"])))
        else:
            axis.set_xticks([])
    shown = table if curves else table[table["metric"] == "avg"]
    style.fraction_axis(axes, float(shown["hi"].fillna(shown["value"]).max()))
    per_row = style.even_columns(len(axes))
    for axis in axes[::per_row]:
        axis.set_ylabel("share correct")
    if curves:
        for metric, line in LINES.items():
            axes[0].plot([], [], color=style.GREY, linestyle=line, label=f"{metric}@k")
    style.legend(figure, axes)
    return figure


def _range(numbers: pd.Series, unit: str) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low} {unit}{'' if low == 1 else 's'}" if low == high else f"{low} to {high} {unit}s"


def _curves(axis: Axes, rows: pd.DataFrame, model: str, color: str, shift: float) -> None:
    for metric, line in LINES.items():
        part = rows[rows["metric"] == metric].sort_values("k")
        if part.empty:
            continue
        bars = [(part["value"] - part["lo"]).clip(lower=0), (part["hi"] - part["value"]).clip(lower=0)]
        axis.errorbar(
            part["k"] * shift, part["value"], bars, color=color, linestyle=line, marker="o", markersize=2.6,
            elinewidth=0.6, capsize=1.2, label=model if metric == "pass" else None,
        )  # fmt: skip


def _bar(axis: Axes, place: int, row: Any, model: str, color: str) -> None:
    axis.bar(place, row.value, 0.8, color=color, label=model, zorder=2)
    axis.errorbar(
        place, row.value, [[max(row.value - row.lo, 0.0)], [max(row.hi - row.value, 0.0)]], color="black",
        elinewidth=0.8, zorder=3,
    )  # fmt: skip


def _powers(axis: Axes, sizes: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log", base=2)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(sizes, [str(k) for k in sizes])
    axis.set_xlabel("k")
