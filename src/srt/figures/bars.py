"""The base model's majority vote against the test-time-trained model's, one group of bars per test set (Fig. 4).

Each series is one run: its first point is the base model, its last the trained one. Groups are the data sets of each
series (`datasets` of the spec, the panel or the series), in order of first appearance; a panel with one data set gives
the group its title, and a group has the bars of its own series only. Whiskers are 95 % intervals over
problems and seeds. The number above a bar is the paired gain over the same problems, with its interval where a group
has one trained model and groups are few; the CSV has all of them.

Options
    names         {data set: name in the figure}
    base_label    label of the base bar; default "Base model"
    step          checkpoint that is shown, default the last; a panel may have its own (used by `srt.figures.resolve`)
    from_base     the first point is the base model, not where the run starts (used by `srt.figures.resolve`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.figures import style
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Series, Spec
from srt.metrics.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUP = 0.78  # share of a group's slot that its bars fill
_MANY, _BARS = 4, 2  # groups, runs of one; with more, notes stand upright and lose their intervals, which the CSV keeps


@dataclass(frozen=True)
class Group:
    """The bars of one data set."""

    title: str
    dataset: str
    suite: str
    by_label: Mapping[str, list[Series]]


@dataclass(frozen=True)
class Layout:
    """What all groups of a figure share. slot: width of a bar; crowded: notes are upright and without interval."""

    axis: Axes
    base: str
    slot: float
    crowded: bool
    looks: Mapping[str, style.Look]


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    groups, base = _groups(spec), spec.options.base_label
    data = {group.suite: FigureData(spec) for group in groups}  # each kind of samples has its own n
    labels = [[(label, seeds[0].method) for label, seeds in group.by_label.items()] for group in groups]
    figure, (axis,) = style.grid(1)
    bars = [len(group.by_label) for group in groups]
    width = max(style.SINGLE, min(style.WIDTH, 1.3 + 0.42 * sum(1 + count for count in bars)))
    figure.set_size_inches(width, 2.75)
    layout = Layout(
        axis=axis,
        base=base,
        slot=_GROUP / (1 + max(bars)),
        crowded=len(groups) > _MANY or max(bars) > _BARS,
        looks={base: style.METHODS["base"], **style.looks(*labels)},
    )
    rows: list[pd.DataFrame] = []
    tops, sizes = [], []
    for position, group in enumerate(groups):
        drawn, top, size = _draw_group(layout, data[group.suite], position, group)
        rows += drawn
        tops.append(top)
        sizes.append(size)

    ticks = [group.title for group in groups]
    if layout.crowded and len(set(sizes)) == 1:
        axis.set_xlabel(f"{sizes[0]} problems each")
    else:
        ticks = [f"{title}\n{size} problems" for title, size in zip(ticks, sizes, strict=True)]
    axis.set_xticks(range(len(groups)), ticks)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    kinds = [files.metric_label([g.dataset for g in groups if g.suite == suite]) for suite, files in data.items()]
    axis.set_ylabel(", ".join(dict.fromkeys(kinds)))
    axis.set_ylim(0, max(max(tops) * (1.26 if layout.crowded else 1.18), 0.05))  # room for the notes
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 1.0])
    style.legend(figure, [axis])
    return figure, pd.concat(rows, ignore_index=True)


def _draw_group(layout: Layout, data: FigureData, position: int, group: Group) -> tuple[list[pd.DataFrame], float, int]:
    """The bars of one data set and the gains above them: their rows, the highest whisker, the number of problems."""
    rows: list[pd.DataFrame] = []
    bars = _bars(data, layout.base, group)
    place = {label: position + (i - len(group.by_label) / 2) * layout.slot for i, label in enumerate(bars)}
    for label, frame in bars.items():
        value, lo, hi = frame[["value", "lo", "hi"]].iloc[0]
        _bar(layout, place[label], label, value, lo, hi)
        seeds = group.by_label.get(label) or next(iter(group.by_label.values()))
        quantity = data.metric_label([group.dataset])
        row = identify(frame, panel=group.title, seeds=seeds, dataset=group.dataset, quantity=quantity)
        if label == layout.base:
            row["series"], row["method"] = layout.base, "base"
        rows.append(row)
    top = max(frame.hi.iloc[0] for frame in bars.values())
    gains = _gains(data, group)
    for label, gain in gains.items():
        seeds = group.by_label[label]
        rows.append(identify(gain, panel=group.title, seeds=seeds, dataset=group.dataset, quantity="gain"))
        if layout.crowded or len(gains) > 1:
            text = f"{gain.value.iloc[0]:+.3f}"
            _note(layout.axis, place[label], bars[label].hi.iloc[0], text, upright=layout.crowded)
        else:
            text = "{:+.3f}\n[{:+.3f}, {:+.3f}]".format(*gain[["value", "lo", "hi"]].iloc[0])
            _note(layout.axis, position, top, text)
    return rows, top, int(bars[layout.base].n_problems.iloc[0])


def _note(axis: Axes, x: float, y: float, text: str, upright: bool = False) -> None:
    """Small grey text over a bar, with true minus signs; turned by 90 degrees where bars are many."""
    text = text.replace("-", "\N{MINUS SIGN}")
    axis.annotate(
        text, (x, y), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
        fontsize=6.0, color=style.GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        rotation=90 if upright else 0,
    )  # fmt: skip


def _groups(spec: Spec) -> list[Group]:
    """The groups of bars, in the order of panels and of the data sets in each."""
    groups = []
    for panel in spec.panels:
        for run in panel.series:
            if len(run.points) < 2:
                raise SrtError(
                    f"{spec.where()}: series '{run.label}' (run '{run.run}') has one point; bars need two, the base "
                    "model's and the trained model's"
                )
        datasets = list(dict.fromkeys(name for series in panel.series for name in series.datasets))
        for dataset in datasets:
            by_label = {
                label: members
                for label, seeds in panel.groups_of_seeds().items()
                if (members := [run for run in seeds if dataset in run.datasets])
            }
            name = f"{spec.name(dataset)} ({panel.temperature})" if panel.temperature else spec.name(dataset)
            title = panel.title if len(datasets) == 1 and panel.title else name
            groups.append(Group(title, dataset, panel.suite, by_label))
    return groups


def _bars(data: FigureData, base: str, group: Group) -> dict[str, pd.DataFrame]:
    """A one-row frame per bar by its label; the base model counts once, however many runs start from it."""
    starts = {run.points[0].groups: run.points[0] for seeds in group.by_label.values() for run in seeds}
    bars = {base: _row(data.values(list(starts.values()), group.dataset), [point.step for point in starts.values()])}
    for label, seeds in group.by_label.items():
        bars[label] = _row(data.values([run.points[-1] for run in seeds], group.dataset), _last_steps(seeds))
    return bars


def _gains(data: FigureData, group: Group) -> dict[str, pd.DataFrame]:
    """A one-row frame per label: trained minus base over the same problems."""
    gains = {}
    for label, seeds in group.by_label.items():
        before = data.values([run.points[0] for run in seeds], group.dataset)
        after = data.values([run.points[-1] for run in seeds], group.dataset)
        gains[label] = _row(after - before, _last_steps(seeds), share=False)
    return gains


def _last_steps(seeds: list[Series]) -> list[int]:
    return [run.points[-1].step for run in seeds]


def _row(values: np.ndarray, steps: list[int], share: bool = True) -> pd.DataFrame:
    value, lo, hi = mean_interval([values], share)
    columns = {"step": max(steps), "value": value, "lo": lo, "hi": hi}
    return pd.DataFrame([{**columns, "n_problems": values.shape[1], "n_seeds": values.shape[0]}])


def _bar(layout: Layout, x: float, label: str, value: float, lo: float, hi: float) -> None:
    look = layout.looks[label]
    layout.axis.bar(
        x, value, 0.94 * layout.slot, color=look.color, hatch=look.hatch, edgecolor="white", linewidth=0, label=label,
        zorder=2,
    )  # fmt: skip
    layout.axis.errorbar(
        x, value, [[max(value - lo, 0.0)], [max(hi - value, 0.0)]], color="black", elinewidth=0.8, capthick=0.8,
        zorder=3,
    )  # fmt: skip
