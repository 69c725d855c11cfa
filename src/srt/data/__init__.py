"""Problem tables from generated, local and hub data sets, and their prompts. Imports no answers, models or training.

A problem table has the columns of `PROBLEM_SCHEMA`, unique ids and no empty answer. The label is the `answer` column
only: the generator's metadata, from which Reasoning Gym's scorers recompute the truth, is dropped.
"""

from __future__ import annotations

from srt.data.build import Loaded, load, load_with_report
from srt.data.keys import question_key
from srt.data.problem_table import PROBLEM_SCHEMA, fingerprint, read_problems, write_problems

__all__ = [
    "PROBLEM_SCHEMA",
    "Loaded",
    "fingerprint",
    "load",
    "load_with_report",
    "question_key",
    "read_problems",
    "write_problems",
]
