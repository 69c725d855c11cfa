"""Answers: extraction, canonical form, equivalence, votes and verdicts. See docs/answers.md.

with Grader(preset="clean") as grader:
    (vote,) = grader.vote([["so \\\\boxed{1/2}", "\\\\boxed{0.5}", "\\\\boxed{3}"]])
    vote.majority, vote.count, vote.classes        # "1/2", 2, (0, 0, 1)
"""

from __future__ import annotations

from srt.answers.canonical import canonical
from srt.answers.extract import EXTRACTORS, Extraction, extract
from srt.answers.grader import Grader, Preset, Verdict, Vote, alternatives

__all__ = ["EXTRACTORS", "Extraction", "Grader", "Preset", "Verdict", "Vote", "alternatives", "canonical", "extract"]
