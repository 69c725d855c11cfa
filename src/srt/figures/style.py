"""The house style: sizes, fonts, and the look of each method, the same in every figure.

Colours are Okabe and Ito's; rarer methods have darker colours that colour-blind readers can tell from them. Each method
also has its own line and marker, so the figures can be read in black and white. Text is DejaVu, which matplotlib ships,
embedded as TrueType. No file depends on the time, the machine or the user's matplotlibrc.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from srt.common.errors import SrtError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.75  # inches: the text width of a two-column paper
SINGLE = 3.6  # inches: a figure of one panel
DPI = 200
BAND_ALPHA = 0.13
GREY = "#666666"
MARK = "mark"  # gid of what a legend lists last: marks on curves, which belong to no method
LIGHT = "#D9D9D9"
STEP_LABEL = "RL step"
_LEGEND_ROW = 0.16  # inches
_NOTE_SIZE, _NOTE_ROW, _NOTE_WIDTH = 6.0, 0.11, 22  # points, inches of a line, characters to an inch

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "legend.columnspacing": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.6,
    "errorbar.capsize": 2.0,
    # A dollar sign in a data set's name or in a problem is text, not mathematics.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
}


@dataclass(frozen=True)
class Look:
    """Colour, line and marker of a line, and the hatch of a bar."""

    color: str
    line: Any
    marker: str
    hatch: str = ""


METHODS: dict[str, Look] = {
    "ground_truth": Look("#0072B2", (0, (4.5, 1.4)), "o"),
    "srt": Look("#D55E00", "-", "s"),
    "offline": Look("#009E73", (0, (4.5, 1.2, 1.0, 1.2)), "^"),
    "easy_pass_rate": Look("#CC79A7", (0, (2.2, 1.0)), "D"),
    "easy_majority": Look("#56B4E9", (0, (1.0, 0.9)), "v"),
    "test_time": Look("#E69F00", "-", "P", "////"),
    "base": Look("#7F7F7F", (0, (1.0, 1.6)), "X"),
    "fixed_teacher": Look("#000000", (0, (6.0, 1.4, 1.0, 1.4)), "d"),
    "soft_majority": Look("#882255", (0, (3.0, 1.0, 1.0, 1.0)), "p"),
    "threshold": Look("#661100", (0, (5.0, 1.0, 1.0, 1.0, 1.0, 1.0)), "h"),
    "climbing": Look("#8C510A", (0, (6.5, 1.2)), "<"),
    "warm_up": Look("#1B3A6B", (0, (3.2, 1.6)), ">"),
    "distilled": Look("#6300A6", (0, (7.0, 1.0, 2.0, 1.0)), "*"),
    "mixed_labels": Look("#999933", (0, (4.0, 1.0, 2.0, 1.0)), "H"),
    "confidence": Look("#117733", (0, (2.0, 0.8, 5.0, 0.8)), "8"),
}
# Further labels of one method (hyperparameters, presets) have its colour, paler, with another line and marker.
_MARKERS = ("", "X", "P", "h", "*", "<", ">")
_REPEATED: tuple[Any, ...] = ("-", (0, (4.5, 1.4)), (0, (1.0, 0.9)), (0, (4.5, 1.2, 1.0, 1.2)), (0, (2.5, 2.5)))


def look(method: str, repeat: int = 0, shade: int | None = None) -> Look:
    """The look of a method. `repeat` counts the labels of that method that come before it in the same figure.

    `shade` says how pale it is: the number of those labels in the same panel; default: `repeat`.
    """
    if method not in METHODS:
        raise SrtError(f"method '{method}' has no colour in the house style{nearest(method, METHODS)}")
    base = METHODS[method]
    if repeat == 0:
        return base
    paler = 1 - 0.62 ** min(repeat if shade is None else shade, 3)
    channels = [int(base.color[i : i + 2], 16) for i in (1, 3, 5)]
    color = "#" + "".join(f"{round(c + (255 - c) * paler):02X}" for c in channels)
    lines = [line for line in _REPEATED if line != base.line]
    return Look(color, lines[(repeat - 1) % len(lines)], _MARKERS[1 + (repeat - 1) % 6], base.hatch)


def looks(*panels: Sequence[tuple[str, str]]) -> dict[str, Look]:
    """Looks of a figure's (label, method) pairs, by panel; two labels of one method get two looks.

    The first label of a method has the method's look. Each further label has a line and a marker that no other label
    has, as long as there are any left, and is paler the later it comes in its panel.
    """
    seen: dict[str, Look] = {}
    count: dict[str, int] = {}
    first = [look(method) for method in dict.fromkeys(method for panel in panels for _, method in panel)]
    lines, markers = [each.line for each in first], [each.marker for each in first]
    for panel in panels:
        shades: dict[str, int] = {}
        for label, method in dict.fromkeys(panel):
            shade = shades[method] = shades.get(method, -1) + 1
            if label in seen:
                continue
            repeat = count[method] = count.get(method, -1) + 1
            if repeat and not shade:  # the full colour belongs to another panel: later labels here are paler still
                shades[method] = shade = 1
            seen[label] = look(method, repeat, max(shade, 1))
            if repeat:
                line = next((each for each in _REPEATED if each not in lines), seen[label].line)
                marker = next((each for each in _MARKERS[1:] if each not in markers), seen[label].marker)
                lines.append(line)
                markers.append(marker)
                seen[label] = replace(seen[label], line=line, marker=marker)
    return seen


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's defaults plus the house style within a `with`; a user's own settings have no effect."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def even_columns(count: int) -> int:
    """Columns for `count` panels: at most four, and rows of nearly equal length."""
    return math.ceil(count / math.ceil(count / 4))


def grid(count: int, *, height: float = 2.05, columns: int | None = None, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most four per row in rows of nearly equal length; returns it and its axes."""
    from matplotlib.figure import Figure

    columns = columns or even_columns(count)
    rows = math.ceil(count / columns)
    width = SINGLE if count == 1 else WIDTH
    height = 2.5 if count == 1 else height
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.04)
    axes = list(figure.subplots(rows, columns, squeeze=False, **subplots).ravel())
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def draw_line(axes: Axes, x: Any, y: Any, lo: Any, hi: Any, style: Look, label: str, rank: int = 0) -> None:
    """One curve with its band, drawn over those of higher `rank`; markers only up to 25 points, where they fit."""
    import numpy as np

    y = np.asarray(y, dtype=float)
    if np.isfinite(np.asarray(lo, dtype=float)).any():
        axes.fill_between(x, lo, hi, color=style.color, alpha=BAND_ALPHA, linewidth=0)
        for edge in (lo, hi):
            axes.plot(x, edge, color=style.color, alpha=0.35, linewidth=0.4)
    marker = style.marker if len(y) <= 25 else "none"
    axes.plot(
        x, y, color=style.color, linestyle=style.line, marker=marker, markeredgecolor="white", markeredgewidth=0.5,
        label=label, zorder=3 - 0.01 * rank,
    )  # fmt: skip


def draw_curve(axes: Axes, curve: Any, style: Look, label: str, rank: int = 0, offset: int = 0) -> None:
    """A curve of `FigureData.curve`: the band of one seed is its interval, that of several seeds their range.

    With several seeds the thin edges are the interval over problems and seeds, which is wider if problems are few.
    """
    x = curve.step + offset
    if curve.n_seeds.max() > 1:
        axes.fill_between(x, curve.seed_lo, curve.seed_hi, color=style.color, alpha=1.6 * BAND_ALPHA, linewidth=0)
        for edge in (curve.lo, curve.hi):
            axes.plot(x, edge, color=style.color, alpha=0.35, linewidth=0.4)
        nothing = [float("nan")] * len(x)
        draw_line(axes, x, curve.value, nothing, nothing, style, label, rank)
    else:
        draw_line(axes, x, curve.value, curve.lo, curve.hi, style, label, rank)


def step_axis(axes: Axes) -> None:
    """An x axis of whole numbers with few ticks, and its name."""
    from matplotlib.ticker import MaxNLocator

    place = axes.get_subplotspec()
    narrow = place is not None and place.get_gridspec().ncols >= 4
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if narrow else 5, integer=True, min_n_ticks=2))
    axes.set_xlabel(STEP_LABEL)


def fraction_axis(axes: Sequence[Axes], top: float) -> None:
    """All of `axes` from 0 to a little over `top` (at most 1.02), so that heights compare across panels."""
    top = min(max(top * 1.06, 0.05), 1.02)
    for each in axes:
        each.set_ylim(0, top)
        each.locator_params(axis="y", nbins=5)


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 5) -> None:
    """One legend under all panels, each label once, in the order of first appearance; marks (gid `MARK`) come last."""
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    handles = dict(sorted(handles.items(), key=lambda item: getattr(item[1], "get_gid", str)() == MARK))
    if handles:
        for width in range(min(columns, len(handles)), 0, -1):  # as many columns as fit
            drawn = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=width)
            if width == 1 or drawn.get_window_extent().width <= figure.bbox.width:
                # A legend of many rows makes the figure taller, not its panels flatter.
                rows = math.ceil(len(handles) / width)
                figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + _LEGEND_ROW * (rows - 1))
                break
            drawn.remove()


def note(figure: Figure, text: str) -> None:
    """Small grey text above the panels of a figure, which makes it taller by its lines; an empty one does nothing."""
    if not text:
        return
    lines = textwrap.wrap(text, max(20, int(figure.get_figwidth() * _NOTE_WIDTH)))
    figure.suptitle("\n".join(lines), fontsize=_NOTE_SIZE, color=GREY)
    figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + _NOTE_ROW * len(lines))


def to_bytes(figure: Figure, title: str) -> dict[str, bytes]:
    """The figure as {"pdf": ..., "png": ...}: equal figures give equal bytes (no date, no version, no user)."""
    out = {}
    nothing = {"Creator": None, "Producer": None, "CreationDate": None}
    for kind, metadata in (("pdf", {"Title": title, **nothing}), ("png", {"Software": None, "Title": title})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        out[kind] = buffer.getvalue()
    return out
