"""What the base model's scored samples decide: offline labels (paper Section 5) and the easiest part of a data set."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import read_parquet

CURRICULUM_METRICS = {"pass_rate": "pass_rate", "majority_frequency": "consistency_all"}


def read_groups(path: Path) -> pd.DataFrame:
    """A groups table (one row a problem), as the score rule writes it."""
    frame = read_parquet(path).to_pandas()
    missing = {"dataset", "problem_id", "majority", "consistency_all", "pass_rate"} - set(frame)
    if missing:
        raise SrtError(
            f"{path} lacks the column '{sorted(missing)[0]}': it is not a groups table; rerun the score rule"
        )
    return frame


def offline_labels(groups: pd.DataFrame) -> pd.DataFrame:
    """The majority answer of each problem as its label, made once and never voted on again.

    Columns problem_id, label (null where no response had an answer), consistency (share of all n), correct (for the
    audit; the trainer does not read it).
    """
    return pd.DataFrame(
        {
            "problem_id": groups["problem_id"],
            "label": groups["majority"],
            "consistency": groups["consistency_all"],
            "correct": groups["majority_correct"],
        }
    )


def easiest(groups: pd.DataFrame, by: str, fraction: float) -> pd.DataFrame:
    """The easiest ceil(fraction * N) problems by `pass_rate` or `majority_frequency`; ties in the order of the table.

    Returns problem_id and the metric, easiest first.
    """
    if not 0 < fraction <= 1:
        raise SrtError(f"curriculum fraction {fraction} must be above 0 and at most 1: it is the share that is kept")
    column = CURRICULUM_METRICS[by]
    if groups[column].isna().any():
        row = groups.loc[groups[column].isna(), "problem_id"].iloc[0]
        raise SrtError(f"problem '{row}' has no {by}: curriculum by {by} needs scored samples with true answers")
    count = max(1, math.ceil(fraction * len(groups) - 1e-9))
    ranked = groups.sort_values(column, ascending=False, kind="stable").head(count)
    return ranked[["problem_id", column]].rename(columns={column: by}).reset_index(drop=True)
