"""Keys of questions, and the shares of hash space that split data sets without a second file."""

from __future__ import annotations

import hashlib

from srt.data.text import core, normalise

TEST_SHARE = 0.25  # one value for all generated data sets: two values would let train and test overlap


def question_key(text: str) -> str:
    """The text without white space and case: what counts as the same question.

    Coarser than equality of texts, so texts with different keys differ: '2 + 3 =' and '2+3=' are one question.
    """
    return "".join(text.split()).casefold()


def short_hash(text: str) -> str:
    """16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_share(salt: str, text: str) -> float:
    """A number in [0, 1) that depends on salt and text only; the same on every machine.

    Uses the first 52 bits of SHA-256, which a float64 holds exactly.
    """
    return int(hashlib.sha256(f"{salt}\0{text}".encode()).hexdigest()[:13], 16) / 16**13


def generated_split(question: str) -> str:
    """'test' or 'train' of a generated question, by its key alone: disjoint over all seeds, sizes and levels."""
    return "test" if hash_share("generated-split", question_key(question)) < TEST_SHARE else "train"


def holdout_part(question: str, fraction: float) -> str:
    """'heldout' or 'train' of a question for a holdout fraction in (0, 1).

    By what is asked and not by id, so repeats of a question, in another layout or with another sentence on how to
    write the answer, are on one side; about `fraction` of the rows are held out.
    """
    return "heldout" if hash_share("holdout", normalise(core(question))) < fraction else "train"
