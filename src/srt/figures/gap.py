"""The generation-verification gap of a model against the consistency threshold (Fig. 9).

One panel per data set (one row per series, if there are several). At threshold x the problems count whose majority
answer has at least the share x of the parsed answers. Drawn are the mean per-prompt accuracy over parsed responses and
the accuracy of the majority vote, each with its 95 % interval over problems, and behind them the share of prompts.
A line ends where no prompt is left.

Options
    names    {data set: name in the figure}
    step     distance of the thresholds; default 0.05
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.config.figures import GapOptions
from srt.figures import style
from srt.figures.figure_data import FigureData, identify
from srt.figures.spec import Series, Spec
from srt.metrics.intervals import kept_mean_intervals
from srt.metrics.statistics import gap_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Two quantities of one model, not two methods: colours (Tol's muted set) that no method has.
_PROMPT = style.Look("#999933", (0, (4.5, 1.4)), "o")
_MAJORITY = style.Look("#332288", "-", "s")
_LINES = (("majority", "majority-vote accuracy", _MAJORITY), ("prompt", "per-prompt accuracy", _PROMPT))


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The figure and the table of all that it shows."""
    options: GapOptions = spec.options
    data = FigureData(spec)
    thresholds = np.append(np.round(np.arange(0, 1 - 1e-9, options.step), 6), 1.0)
    cells = [(panel.title, run, dataset) for panel in spec.panels for run in panel.series for dataset in run.datasets]
    models = list(dict.fromkeys((title, run.label) for title, run, _ in cells))
    columns = len(cells[0][1].datasets) if len(models) > 1 else None
    figure, axes = style.grid(len(cells), columns=columns, sharex=True, sharey=True)

    rows = []
    for axis, (title, run, dataset) in zip(axes, cells, strict=True):
        curve = _curve(data, run, dataset, thresholds)
        axis.fill_between(curve.threshold, 0, curve.share, color=style.LIGHT, alpha=0.55, linewidth=0,
                          label="share of prompts")  # fmt: skip
        for rank, (name, label, look) in enumerate(_LINES):
            lo, hi = curve[f"{name}_lo"], curve[f"{name}_hi"]
            style.draw_line(axis, curve.threshold, curve[name], lo, hi, look, label, rank)
            rows.append(_rows(curve, title, run, dataset, label, name))
        rows.append(_rows(curve, title, run, dataset, "share of prompts", "share"))
        name = spec.name(dataset)
        axis.set_title(f"{run.label}: {name}" if len(models) > 1 else name)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.03)
        axis.set_xticks(np.linspace(0, 1, 6), ["0", "0.2", "0.4", "0.6", "0.8", "1"])
        axis.label_outer()
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("fraction")
        if axis.get_subplotspec().is_last_row():
            axis.set_xlabel("consistency threshold")
    style.legend(figure, axes)
    return figure, pd.concat(rows, ignore_index=True)


def _curve(data: FigureData, run: Series, dataset: str, thresholds: np.ndarray) -> pd.DataFrame:
    """threshold, share, prompt, prompt_lo, prompt_hi, majority, majority_lo, majority_hi, n_problems (kept), step."""
    spec = data.spec
    if len(run.points) != 1:
        raise SrtError(
            f"{spec.where()}: series '{run.label}' (run '{run.run}') has {len(run.points)} points; the gap is that of "
            "one checkpoint, so name one"
        )
    part = data.groups(run.points[0].groups, dataset)
    parsed, n = part["parsed"].to_numpy(np.float64), part["n"].to_numpy(np.float64)
    consistency = part["consistency"].to_numpy(np.float64)
    majority = part["majority_correct"].to_numpy(np.float64)
    # Per-prompt accuracy over parsed responses, as the paper's caption says. The authors' grader may accept a response
    # without a parsed answer, hence the bound at 1. Without a parsed response the accuracy is 0.
    correct = part["pass_rate"].to_numpy(np.float64) * n
    accuracy = np.minimum(np.divide(correct, parsed, out=np.zeros(len(part)), where=parsed > 0), 1.0)
    curve = gap_curve(consistency, accuracy, majority, thresholds)
    of_all = part["consistency_all"].to_numpy(np.float64)  # among all n responses, as the paper's caption has it
    keep = consistency[:, None] >= thresholds[None, :] - 1e-9
    prompt_lo, prompt_hi = kept_mean_intervals(accuracy, keep)
    majority_lo, majority_hi = kept_mean_intervals(majority, keep)
    return pd.DataFrame(
        {
            "step": run.points[0].step,
            "threshold": thresholds,
            "share": gap_curve(of_all, accuracy, majority, thresholds)["kept"],
            "prompt": curve["pass_rate"],
            "prompt_lo": prompt_lo,
            "prompt_hi": prompt_hi,
            "majority": curve["majority_accuracy"],
            "majority_lo": majority_lo,
            "majority_hi": majority_hi,
            "n_problems": keep.sum(axis=0),
        }
    )


def _rows(curve: pd.DataFrame, panel: str, run: Series, dataset: str, quantity: str, name: str) -> pd.DataFrame:
    frame = curve[["step", "threshold"]].assign(
        value=curve[name],
        lo=curve.get(f"{name}_lo", np.nan),
        hi=curve.get(f"{name}_hi", np.nan),
        n_problems=curve["n_problems"],
        n_seeds=1,
    )
    return identify(frame, panel=panel, seeds=[run], dataset=dataset, quantity=quantity)
