"""Keys of questions, and the hashes by which data sets are split without reading another file."""

from __future__ import annotations

import hashlib

from srt.data.question_text import core, normalise

TEST_SHARE = 0.25  # the same for all generated data sets, or train and test would overlap


def question_key(text: str) -> str:
    """The text without white space and case; questions with equal keys are the same, such as '2 + 3 =' and '2+3='."""
    return "".join(text.split()).casefold()


def short_hash(text: str) -> str:
    """16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_share(salt: str, text: str) -> float:
    """A number in [0, 1) that depends on salt and text only, the same on every machine.

    It is the first 52 bits of a SHA-256, which a float64 holds exactly.
    """
    return int(hashlib.sha256(f"{salt}\0{text}".encode()).hexdigest()[:13], 16) / 16**13


def generated_split(question: str) -> str:
    """'test' or 'train' for a generated question, by its key only: disjoint over all seeds, sizes and levels."""
    return "test" if hash_share("generated-split", question_key(question)) < TEST_SHARE else "train"


def holdout_part(question: str, fraction: float) -> str:
    """'heldout' or 'train' for a question and a holdout fraction in (0, 1).

    Decided by the question rather than the id, so that repeats in another layout, or with another sentence on how to
    write the answer, are on the same side. About `fraction` of the rows are held out.
    """
    return "heldout" if hash_share("holdout", normalise(core(question))) < fraction else "train"
