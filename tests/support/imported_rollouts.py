"""Rollouts of another project: three responses with that project's own verdicts, of which one is wrong."""

from __future__ import annotations

import pandas as pd

ROLLOUTS = pd.DataFrame(
    {
        "response": ["5", r"\boxed{6}", "no"],
        "truth": ["5", "5", "5"],
        "who": ["m", "m", "k"],
        "correct": [True, True, False],
    }
)
