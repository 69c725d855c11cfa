"""Offline labels (paper Section 5): the base model's majority answers as fixed labels."""

from __future__ import annotations

import pandas as pd


def offline_labels(groups: pd.DataFrame) -> pd.DataFrame:
    """The majority answer of each problem of a groups table as its label, which never changes again.

    Columns: problem_id, label (null if no response had an answer), consistency (majority votes / n), correct (for the
    log; the trainer does not read it).
    """
    return pd.DataFrame(
        {
            "problem_id": groups["problem_id"],
            "label": groups["majority"],
            "consistency": groups["consistency_all"],
            "correct": groups["majority_correct"],
        }
    )
