"""The matrix of overlaps: training sets down, test sets across, the share of contaminated test rows as shade."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from srt.audit.tables import ITSELF
from srt.common.atomic_files import atomic_path
from srt.figures import style

_CELL = 0.52  # inches a column
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


def _figure(overlap: pd.DataFrame):  # type: ignore[no-untyped-def]  # a matplotlib Figure
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    train, test = list(dict.fromkeys(overlap["train"])), list(dict.fromkeys(overlap["test"]))
    side = 0.068 * max(map(len, train)) + 0.2
    width, height = side + _CELL * len(test) + 0.9, 0.3 * len(train) + 0.068 * max(map(len, test)) + 0.75
    figure = Figure(figsize=(max(width, style.SINGLE), height), layout="constrained")
    axes = figure.subplots()
    shares = overlap.pivot(index="train", columns="test", values="share").loc[train, test]
    own = overlap.assign(own=overlap["note"] == ITSELF).pivot(index="train", columns="test", values="own")
    own = own.loc[train, test]
    shades = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#D55E00", "#7A3000"])
    image = axes.imshow(shares.mask(own).to_numpy(float), cmap=shades, vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor(style.LIGHT)
    for cell in overlap.itertuples():
        where = {"x": test.index(cell.test), "y": train.index(cell.train), "ha": "center", "va": "center"}
        if cell.note == ITSELF:
            axes.text(s="itself", color=style.GREY, fontsize=6.5, **where)
        else:
            color = "white" if cell.share > _DARK else ("black" if cell.contaminated else style.GREY)
            axes.text(s=f"{cell.contaminated}/{cell.test_rows}", color=color, fontsize=6.5, **where)
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
