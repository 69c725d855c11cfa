"""Where the reward comes from (Fig. 1): a verifier with true answers (RLVR), or the majority of the responses (SRT).

A diagram, drawn from no data; the CSV lists its arrows.

Options
    names    has no effect
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from srt.figures import style
from srt.figures.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = (
    ("ground_truth", "RL with verifiable rewards", "True answer\nof the problem", "is the answer\nthe true one?"),
    ("srt", "Self-rewarded training", "Majority vote\nof the n answers", "is the answer\nthe majority's?"),
)
_X = (0.09, 0.33, 0.57, 0.90)  # problem, model, responses, reward
_W, _H, _PAD = 0.15, 0.10, 0.008  # of a box, in figure units


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The diagram, and its arrows as rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(style.WIDTH, 3.3))
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set_axis_off()
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    rows: list[dict[str, str]] = []
    for (method, title, judge, question), level in zip(_ROWS, (0.68, 0.18), strict=True):
        color = style.METHODS[method].color
        axis.text(0.01, level + 0.25, title, fontsize=8.5, fontweight="bold", color=color, ha="left", va="center")
        arrows = _row(axis, level, judge, question, color, voted=method == "srt")
        rows += [
            {"panel": title, "method": method, "from": source, "to": target, "text": text.replace("\n", " ")}
            for source, target, text in arrows
        ]
    return figure, pd.DataFrame(rows)


def _row(axis: Axes, level: float, judge: str, question: str, color: str, voted: bool) -> list[tuple[str, str, str]]:
    """One half of the diagram at a height; returns its arrows (from, to, text)."""
    judged = "majority vote" if voted else "true answer"
    texts = {"problem": "Problem", "model": "Model", "responses": "n responses,\nn answers", "reward": "Reward 1 or 0"}
    x_of = dict(zip(texts, _X, strict=True))
    for name, text in texts.items():
        _box(axis, (x_of[name], level), text, "black")
    x, y = 0.735, level + 0.22
    _box(axis, (x, y), judge, color)

    half, side, arrows = _H / 2 + _PAD, _W / 2 + _PAD, []
    for source, target, text in (
        ("problem", "model", ""), ("model", "responses", "samples"), ("responses", "reward", question),
    ):  # fmt: skip
        _arrow(axis, [(x_of[source] + side, level), (x_of[target] - side, level)], "black")
        _note(axis, (x_of[source] + x_of[target]) / 2, level - 0.02, text)
        arrows.append((source, target, text))
    low = level - half - 0.06
    _arrow(axis, [(_X[3], level - half), (_X[3], low), (_X[1], low), (_X[1], level - half)], "black")
    _note(axis, (_X[1] + _X[3]) / 2, low - 0.01, "policy gradient")
    _arrow(axis, [(x, y - half), (x, level)], color)
    arrows += [("reward", "model", "policy gradient"), (judged, "reward", question)]
    if voted:
        _arrow(axis, [(_X[2], level + half), (_X[2], y), (x - side, y)], color)
        _note(axis, _X[2] - 0.03, y + 0.02, "votes")
        arrows.append(("responses", judged, "votes"))
    return arrows


def _arrow(axis: Axes, path: list[tuple[float, float]], color: str) -> None:
    """A line along `path` with a head at its end."""
    head = {"arrowstyle": "-|>", "color": color, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=path[-1], xytext=path[-2], arrowprops=head)
    axis.plot(*zip(*path[:-1], strict=True), color=color, linewidth=0.9, solid_capstyle="projecting")


def _note(axis: Axes, x: float, y: float, text: str) -> None:
    axis.text(x, y, text, fontsize=6.5, color=style.GREY, ha="center", va="top")


def _box(axis: Axes, place: tuple[float, float], text: str, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    outline = f"round,pad={_PAD}"
    axis.add_patch(
        FancyBboxPatch((x - _W / 2, y - _H / 2), _W, _H, boxstyle=outline, facecolor="white", edgecolor=color, zorder=2)
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=7.5, color=color, zorder=3)
