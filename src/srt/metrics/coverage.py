"""Simulations of intervals and peaks: data whose truth is known, judged by the functions that judge real runs.

The tables of docs/claims.md (`srt coverage`) come from here. Draws are fixed: the same version gives the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from srt.common.markup import markdown_table
from srt.metrics.intervals import crossed
from srt.metrics.peaks import peak_cells, widened

SEEDS = (3, 4, 5, 7, 10)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the variance of the mean, what seeds contribute
PROBLEMS = (30, 100)


def interval_table(runs: int = 2000, sizes: Sequence[int] = PROBLEMS) -> pd.DataFrame:
    """Coverage of the interval of a mean over crossed problems and seeds: one row per cell.

    Values are normal: seeds contribute `share` of the variance of the mean, problems the rest, of which the part `rest`
    is of single answers, independent between seeds. width: mean width in standard deviations of the mean; 3.92 is that
    of an interval which knows the variance.
    """
    generator = np.random.default_rng(0)
    rows = []
    for seeds in SEEDS:
        for problems in sizes:
            for share in SHARES:
                for rest in (0.0, 0.5, 1.0) if share < 1 else (0.0,):
                    normal = generator.standard_normal
                    values = np.sqrt(share * seeds) * normal((runs, seeds, 1), dtype=np.float32)
                    by_problem = normal((runs, 1, problems), dtype=np.float32)
                    values = values + np.sqrt((1 - share) * (1 - rest) * problems) * by_problem
                    if rest:
                        noise = normal((runs, seeds, problems), dtype=np.float32)
                        values = values + np.sqrt((1 - share) * rest * seeds * problems) * noise
                    lo, hi = crossed({"t": values}).interval()
                    cell = {"seeds": seeds, "problems": problems, "share": share, "rest": rest}
                    rows.append({**cell, "coverage": np.mean((lo <= 0) & (hi >= 0)), "width": np.mean(hi - lo)})
    return pd.DataFrame(rows)


def share_table(runs: int = 2000, sizes: Sequence[int] = PROBLEMS) -> pd.DataFrame:
    """Coverage where values are votes (0 or 1) or shares of 32 samples, also near 0 and 1: one row per cell.

    A problem's chance of a right answer has a logit of normal effects of the problem (sd 2) and the seed (sd `spread`).
    """
    generator = np.random.default_rng(1)
    rows = []
    for seeds in (1, 3, 5, 10):
        for problems in sizes:
            for samples in (1, 32):
                for centre in (-5.0, 0.0, 2.0):
                    for spread in (0.0, 0.5) if seeds > 1 else (0.0,):
                        many = generator.standard_normal(200_000) * np.hypot(2.0, spread)
                        truth = (1 / (1 + np.exp(-centre - many))).mean()
                        logit = centre + 2 * generator.standard_normal((runs, 1, problems))
                        logit = logit + spread * generator.standard_normal((runs, seeds, 1))
                        values = generator.binomial(samples, 1 / (1 + np.exp(-logit))) / samples
                        lo, hi = crossed({"t": values}, share=True).interval()
                        covered, width = np.mean((lo <= truth) & (truth <= hi)), np.mean(hi - lo)
                        cell = {"seeds": seeds, "problems": problems, "samples": samples, "mean": truth}
                        rows.append({**cell, "spread": spread, "coverage": covered, "width": width})
    return pd.DataFrame(rows)


def peak_table(runs: int = 2000, sizes: Sequence[int] = PROBLEMS, steps: int = 20) -> pd.DataFrame:
    """How often a peak is called better than the base model where no checkpoint is: one row per cell.

    `loss`: by how much all checkpoints are really worse. metric: maj (one vote per problem) or avg (32 samples).
    naive: chosen and judged on the same problems; peak: as claims do it (`srt.metrics.peaks`).
    """
    generator = np.random.default_rng(2)
    rows = []
    for seeds in (1, 3):
        for problems in sizes:
            for metric, samples in (("avg", 32), ("maj", 1)):
                for loss in (0.0, 0.03):
                    chance = generator.beta(0.6, 1.2, (runs, 1, 1, problems))
                    base = generator.binomial(samples, chance) / samples
                    after = generator.binomial(
                        samples, np.broadcast_to(np.maximum(chance - loss, 0), (runs, seeds, steps, problems))
                    ) / np.float32(samples)
                    best = after.mean(axis=(1, 3)).argmax(axis=1)[:, None, None, None]
                    naive = np.take_along_axis(after, best, axis=2)[:, :, 0] - base[:, :, 0]
                    peak = peak_cells({"t": after})["t"] - base[:, :, 0]
                    found = [crossed({"t": naive}).interval()[0], widened(crossed({"t": peak})).interval()[0]]
                    cell = {"seeds": seeds, "problems": problems, "metric": metric, "loss": loss}
                    rows.append({**cell, "naive": np.mean(found[0] > 0), "peak": np.mean(found[1] > 0)})
    return pd.DataFrame(rows)


def to_markdown(runs: int = 2000) -> str:
    """The three simulations as tables of docs/claims.md."""
    intervals, shares, peaks = interval_table(runs), share_table(runs), peak_table(runs)
    head = ["seeds", "mean coverage", "lowest cell", "highest cell", "width, seeds alone", "width, problems alone"]
    rows = []
    for seeds, part in intervals.groupby("seeds"):
        widths = [part.loc[part["share"] == share, "width"].mean() for share in (1.0, 0.0)]
        ends = [f"{part['coverage'].agg(how):.1%}" for how in ("mean", "min", "max")]
        rows.append([str(seeds), *ends, *(f"{width:.1f}" for width in widths)])
    every = intervals["coverage"]
    rows.append(["all", *(f"{every.agg(how):.1%}" for how in ("mean", "min", "max")), "", ""])
    parts = [markdown_table(head, rows)]
    rows = [
        [str(seeds), f"{part['coverage'].mean():.1%}", f"{part['coverage'].min():.1%}"]
        for seeds, part in shares.groupby("seeds")
    ]
    parts.append(markdown_table(["seeds", "mean coverage of shares", "lowest cell"], rows))
    rows = [
        [str(row.seeds), str(row.problems), str(row.metric), f"{row.loss:g}", f"{row.naive:.1%}", f"{row.peak:.1%}"]
        for row in peaks.itertuples()
    ]
    head = ["seeds", "problems", "metric", "true loss", "chosen and judged on the same", "on other halves"]
    return "\n\n".join([*parts, markdown_table(head, rows)]) + "\n"
