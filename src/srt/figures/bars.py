"""The base model's majority vote against the test-time-trained model's, one group of bars a test set (Fig. 4).

Each series is one run: its first point is the base model, its last the trained one. Groups are the data sets of each
series (`datasets` of the spec, the panel or the series), in order of first appearance; a panel with one data set gives
the group its title, and a group has the bars of its own series only. Whiskers are 95 % bootstrap intervals over
problems and seeds; the number above a bar is the paired gain over the same problems (with its interval where a group
has one trained model and groups are few), in the CSV too.

Options
    names         {data set: name in the figure}
    base_label    label of the base bar; default "Base model"
    step          checkpoint that is shown; default: the last
    from_base     the first point is the base model, not where the run starts
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.figures import style
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Series, Spec, check_options, check_panels
from srt.metrics.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIONS = ("base_label", "step", "from_base")  # `step` and `from_base` chose the points, before
_GROUP = 0.78  # share of a group's slot that its bars fill
_MANY, _BARS = 4, 2  # groups, runs of one; with more, notes stand upright and lose their intervals, which the CSV keeps


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    check_options(spec, OPTIONS)
    check_panels(spec)
    base = str(spec.options.get("base_label", "Base model"))
    groups = _groups(spec)
    labels = [[(label, seeds[0].method) for label, seeds in by_label.items()] for *_, by_label in groups]
    look = {base: style.METHODS["base"], **style.looks(*labels)}
    files = {suite: FigureData(spec) for _, _, suite, _ in groups}  # samples of several kinds need not be as many

    figure, (axis,) = style.grid(1)
    width = max(style.SINGLE, min(style.WIDTH, 1.3 + 0.42 * sum(1 + len(by_label) for *_, by_label in groups)))
    figure.set_size_inches(width, 2.75)
    rows = []
    top = 0.0
    ticks, sizes = [], []
    crowded = len(groups) > _MANY or max(len(by_label) for *_, by_label in groups) > _BARS
    for position, (title, dataset, suite, by_label) in enumerate(groups):
        data = files[suite]
        bars = _bars(data, base, by_label, dataset)
        slot = _GROUP / (1 + max(len(each) for *_, each in groups))
        offsets = {label: (i - len(by_label) / 2) * slot for i, label in enumerate([base, *by_label])}
        high = 0.0
        for label, frame in bars:
            value, lo, hi = frame[["value", "lo", "hi"]].iloc[0]
            _bar(axis, position + offsets[label], slot, value, lo, hi, look[label], label)
            high = max(high, hi)
            seeds = by_label.get(label) or next(iter(by_label.values()))
            row = identify(frame, panel=title, seeds=seeds, dataset=dataset, quantity=data.metric_label([dataset]))
            if label == base:
                row["series"], row["method"] = base, "base"
            rows.append(row)
        gains = _gains(data, by_label, dataset)
        for label, gain in gains:
            rows.append(identify(gain, panel=title, seeds=by_label[label], dataset=dataset, quantity="gain"))
            if crowded or len(gains) > 1:
                above = next(frame for name, frame in bars if name == label).hi.iloc[0]
                _note(axis, position + offsets[label], above, f"{gain.value.iloc[0]:+.3f}", upright=crowded)
        if not crowded and len(gains) == 1:
            _note(axis, position, high, "{:+.3f}\n[{:+.3f}, {:+.3f}]".format(*gain[["value", "lo", "hi"]].iloc[0]))
        ticks.append(title)
        sizes.append(int(bars[0][1].n_problems.iloc[0]))
        top = max(top, high)
    if crowded and len(set(sizes)) == 1:
        axis.set_xlabel(f"{sizes[0]} problems each")
    else:
        ticks = [f"{title}\n{size} problems" for title, size in zip(ticks, sizes, strict=True)]
    axis.set_xticks(range(len(groups)), ticks)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    kinds = [data.metric_label([d for _, d, of, _ in groups if of == suite]) for suite, data in files.items()]
    axis.set_ylabel(", ".join(dict.fromkeys(kinds)))
    axis.set_ylim(0, max(top * (1.26 if crowded else 1.18), 0.05))  # room for the notes
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 1.0])
    style.legend(figure, [axis])
    return figure, pd.concat(rows, ignore_index=True)


def _note(axis: Axes, x: float, y: float, text: str, upright: bool = False) -> None:
    """Small grey text over a bar, with true minus signs; turned by 90 degrees where bars are many."""
    text = text.replace("-", "\N{MINUS SIGN}")
    axis.annotate(
        text, (x, y), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
        fontsize=6.0, color=style.GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        rotation=90 if upright else 0,
    )  # fmt: skip


def _groups(spec: Spec) -> list[tuple[str, str, str, dict[str, list[Series]]]]:
    """(title, data set, suite, series by label) of each group of bars."""
    groups = []
    for panel in spec.panels:
        datasets = list(dict.fromkeys(name for series in panel.series for name in series.datasets))
        for dataset in datasets:
            by_label = {
                label: members
                for label, seeds in panel.groups_of_seeds().items()
                if (members := [run for run in seeds if dataset in run.datasets])
            }
            for seeds in by_label.values():
                for run in seeds:
                    if len(run.points) < 2:
                        raise SrtError(
                            f"{spec.where()}: series '{run.label}' (run '{run.run}') has one point; bars need two, the "
                            "base model's and the trained model's"
                        )
            title = panel.title if len(datasets) == 1 and panel.title else spec.name(dataset)
            groups.append((title, dataset, panel.suite, by_label))
    return groups


def _bars(
    data: FigureData, base: str, by_label: dict[str, list[Series]], dataset: str
) -> list[tuple[str, pd.DataFrame]]:
    """(label, one-row frame) of each bar of a group; the base model counts once, however many runs start from it."""
    starts = {run.points[0].groups: run.points[0] for seeds in by_label.values() for run in seeds}
    bars = [(base, _row(data.values(list(starts.values()), dataset), [p.step for p in starts.values()]))]
    for label, seeds in by_label.items():
        bars.append((label, _row(data.values([run.points[-1] for run in seeds], dataset), _last_steps(seeds))))
    return bars


def _gains(data: FigureData, by_label: dict[str, list[Series]], dataset: str) -> list[tuple[str, pd.DataFrame]]:
    """(label, one-row frame) of trained minus base over the same problems."""
    gains = []
    for label, seeds in by_label.items():
        before = data.values([run.points[0] for run in seeds], dataset)
        after = data.values([run.points[-1] for run in seeds], dataset)
        gains.append((label, _row(after - before, _last_steps(seeds))))
    return gains


def _last_steps(seeds: list[Series]) -> list[int]:
    return [run.points[-1].step for run in seeds]


def _row(values: np.ndarray, steps: list[int]) -> pd.DataFrame:
    value, lo, hi = mean_interval([values])
    columns = {"step": max(steps), "value": value, "lo": lo, "hi": hi}
    return pd.DataFrame([{**columns, "n_problems": values.shape[1], "n_seeds": values.shape[0]}])


def _bar(axis: Axes, x: float, width: float, value: float, lo: float, hi: float, look: style.Look, label: str) -> None:
    axis.bar(
        x, value, 0.94 * width, color=look.color, hatch=look.hatch, edgecolor="white", linewidth=0, label=label,
        zorder=2,
    )  # fmt: skip
    axis.errorbar(
        x, value, [[max(value - lo, 0.0)], [max(hi - value, 0.0)]], color="black", elinewidth=0.8, capthick=0.8,
        zorder=3,
    )  # fmt: skip
