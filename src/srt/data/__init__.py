"""Problem tables: one schema for generated, local and hub data sets.

A problem table has the columns of `PROBLEM_SCHEMA`, unique ids and no empty answer. The label is the `answer`
column and nothing else: generator metadata, from which Reasoning Gym's own scorers recompute the truth, is not kept.

Does not: add prompt suffixes, grade answers, or compare data sets with each other.
"""

from __future__ import annotations

from srt.data.build import Loaded, load, load_with_report
from srt.data.keys import question_key
from srt.data.table import PROBLEM_SCHEMA, fingerprint, read_problems, write_problems

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
