"""Curriculum: the easiest part of a training set, by the base model's scored samples."""

from __future__ import annotations

import math

import pandas as pd

from srt.common.errors import SrtError

METRICS = {"pass_rate": "pass_rate", "majority_frequency": "consistency_all"}  # name -> column of the groups table


def easiest(groups: pd.DataFrame, by: str, fraction: float) -> pd.DataFrame:
    """The easiest ceil(fraction * N) problems by `pass_rate` or `majority_frequency`.

    Returns columns problem_id and the metric, easiest first; ties keep the order of the table.
    """
    if not 0 < fraction <= 1:
        raise SrtError(f"curriculum fraction {fraction} must be above 0 and at most 1: it is the kept share")
    column = METRICS[by]
    if groups[column].isna().any():
        row = groups.loc[groups[column].isna(), "problem_id"].iloc[0]
        raise SrtError(f"problem '{row}' has no {by}: curriculum by {by} needs scored samples with true answers")
    count = max(1, math.ceil(fraction * len(groups) - 1e-9))
    ranked = groups.sort_values(column, ascending=False, kind="stable").head(count)
    return ranked[["problem_id", column]].rename(columns={column: by}).reset_index(drop=True)
