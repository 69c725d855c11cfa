"""Reading the groups table from which labels and curricula are made."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import read_parquet


def read_groups(path: Path) -> pd.DataFrame:
    """A groups table (one row per problem), as the score rule writes it."""
    frame = read_parquet(path).to_pandas()
    missing = {"dataset", "problem_id", "majority", "consistency_all", "pass_rate"} - set(frame)
    if missing:
        raise SrtError(
            f"{path} lacks the column '{sorted(missing)[0]}': it is not a groups table; rerun the score rule"
        )
    return frame
