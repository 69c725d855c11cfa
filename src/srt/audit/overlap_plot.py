"""The matrix of overlaps: one row per training set, one column per test set, the contaminated share as shade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from srt.audit.audit_tables import ITSELF
from srt.common.atomic_files import atomic_path
from srt.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CELL = 0.52  # inches per column
_DARK = 0.55  # white text on shades above


def draw_overlap(overlap: pd.DataFrame, prefix: Path) -> list[Path]:
    """PREFIX.pdf and PREFIX.png of an overlap table; a cell shows contaminated / all test rows."""
    with style.house_style():
        files = style.to_bytes(_figure(overlap), "Training questions among the test questions")
    paths = []
    for kind, data in files.items():
        paths.append(Path(f"{prefix}.{kind}"))
        with atomic_path(paths[-1]) as temporary:
            temporary.write_bytes(data)
    return paths


def _figure(overlap: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure

    train, test = list(dict.fromkeys(overlap["train"])), list(dict.fromkeys(overlap["test"]))
    side = 0.068 * max(map(len, train)) + 0.2
    width, height = side + _CELL * len(test) + 0.9, 0.3 * len(train) + 0.068 * max(map(len, test)) + 0.75
    figure = Figure(figsize=(max(width, style.SINGLE), height), layout="constrained")
    axes = figure.subplots()
    image = _draw_cells(axes, overlap, train, test)
    axes.set_xticks(range(len(test)), test, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(train)), train)
    axes.set_xlabel("test set")
    axes.set_ylabel("training set")
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=12, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    return figure


def _draw_cells(axes: Axes, overlap: pd.DataFrame, train: list[str], test: list[str]) -> AxesImage:
    """The shades and the numbers on them; where a set meets itself the cell is grey."""
    from matplotlib.colors import LinearSegmentedColormap

    shares = overlap.pivot(index="train", columns="test", values="share").loc[train, test]
    own = overlap.assign(own=overlap["note"] == ITSELF).pivot(index="train", columns="test", values="own")
    shades = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#D55E00", "#7A3000"])
    masked = shares.mask(own.loc[train, test]).to_numpy(float)
    image = axes.imshow(masked, cmap=shades, vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor(style.LIGHT)
    for cell in overlap.itertuples():
        where = {"x": test.index(cell.test), "y": train.index(cell.train), "ha": "center", "va": "center"}
        if cell.note == ITSELF:
            axes.text(s="itself", color=style.GREY, fontsize=6.5, **where)
        else:
            color = "white" if cell.share > _DARK else ("black" if cell.contaminated else style.GREY)
            axes.text(s=f"{cell.contaminated}/{cell.test_rows}", color=color, fontsize=6.5, **where)
    return image
