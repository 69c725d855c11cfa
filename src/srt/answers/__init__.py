"""Answers of responses: extraction, canonical form, equivalence, votes, verdicts. Imports no engine and no training.

docs/answers.md explains the conventions.

with Grader(preset="clean") as grader:
    (vote,) = grader.vote([["so \\\\boxed{1/2}", "\\\\boxed{0.5}", "\\\\boxed{3}"]])
    vote.majority, vote.count, vote.classes        # "1/2", 2, (0, 0, 1)
"""

from __future__ import annotations

from srt.answers.canonical import canonical
from srt.answers.extract import EXTRACTORS, Extraction, extract
from srt.answers.grader import Grader, Verdict, alternatives
from srt.answers.votes import Vote

__all__ = ["EXTRACTORS", "Extraction", "Grader", "Verdict", "Vote", "alternatives", "canonical", "extract"]
