"""Votes: answer classes, the majority and its ties for both presets, and what follows from a vote.

Pure functions: no extraction and no comparison of answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from srt.answers.extract import EMPTY_BOX, OK, Extraction
from srt.answers.form import Form

NOT_IN_FORM = "not_in_task_form"


@dataclass(frozen=True)
class Vote:
    """The vote of one prompt's n responses.

    `answers`, `reasons` and `classes` have n entries. Class 0 is the majority, later classes have fewer votes, and a
    response of class -1 does not vote. If no answer could be parsed, `majority` is None, `majority_class` -1 and
    `count` 0.
    """

    answers: tuple[str | None, ...]
    reasons: tuple[str, ...]
    classes: tuple[int, ...]
    majority: str | None
    majority_class: int
    count: int
    parsed: int

    @property
    def consistency(self) -> float:
        """Majority count over parsed answers (the paper's and `main`'s denominator); 0 if nothing parsed."""
        return self.count / self.parsed if self.parsed else 0.0

    @property
    def consistency_all(self) -> float:
        """Majority count over all n responses (TTRL's majority ratio, and the reasoning_gym branch's)."""
        return self.count / len(self.answers) if self.answers else 0.0


def soft_shares(vote: Vote) -> tuple[float, ...]:
    """Each response's reward under soft majority: its class's share of the parsed answers, 0 without an answer.

    Answers ["5", "5", "6", none] give (2/3, 2/3, 1/3, 0).
    """
    counts = Counter(c for c in vote.classes if c >= 0)
    return tuple(counts[c] / vote.parsed if c >= 0 else 0.0 for c in vote.classes)


def reaches(vote: Vote, threshold: float, of_all: bool = False) -> bool:
    """Whether a prompt gets a pseudo-label: it has a majority whose consistency is at least `threshold`.

    The denominator of the consistency is the number of parsed answers, or of all responses with `of_all`. The slack of
    1e-9 lets 24/32 reach 0.75 and admits nothing else, because counts are small integers.
    """
    share = vote.consistency_all if of_all else vote.consistency
    return vote.majority is not None and share >= threshold - 1e-9


def _tie_rank(keys: list[str], key: str) -> bytes:
    """A rank that depends only on the set of answers and favours no kind of answer (short, small or early)."""
    digest = hashlib.blake2b("\x1f".join(keys).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=digest, digest_size=16).digest()


def clean_vote(items: list[Extraction], forms: list[Form | None], equal: list[tuple[Form, Form]]) -> Vote:
    """Count votes per class, the connected components of the equal pairs.

    Ties are broken by `_tie_rank`. The majority is reported in its most frequent spelling, then its shortest.
    """
    parent = {form.text: form.text for form in forms if form}

    def root(text: str) -> str:
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for a, b in equal:
        x, y = sorted((root(a.text), root(b.text)))
        parent[y] = x
    counts = Counter(root(form.text) for form in forms if form)
    keys = sorted(counts)
    order = sorted(keys, key=lambda k: (-counts[k], _tie_rank(keys, k)))
    rank = {key: i for i, key in enumerate(order)}
    classes = tuple(rank[root(form.text)] if form else -1 for form in forms)
    spellings = Counter(item.answer for item, c in zip(items, classes, strict=True) if c == 0 and item.answer)
    majority = min(spellings, key=lambda s: (-spellings[s], len(s), s)) if spellings else None
    return Vote(
        answers=tuple(item.answer if c >= 0 else None for item, c in zip(items, classes, strict=True)),
        reasons=tuple(
            NOT_IN_FORM if item.reason == OK and c < 0 else item.reason for item, c in zip(items, classes, strict=True)
        ),
        classes=classes,
        majority=majority,
        majority_class=0 if spellings else -1,
        count=counts[order[0]] if order else 0,
        parsed=sum(counts.values()),
    )


def authors_vote(items: list[Extraction], drop_empty: bool) -> Vote:
    """Count raw box contents; among equal counts the first seen wins, as `most_common` orders them."""
    if drop_empty:
        items = [Extraction(None, EMPTY_BOX) if item.answer == "" else item for item in items]
    counts = Counter(item.answer for item in items if item.answer is not None)
    ranked = counts.most_common()
    rank = {answer: i for i, (answer, _) in enumerate(ranked)}
    return Vote(
        answers=tuple(item.answer for item in items),
        reasons=tuple(item.reason for item in items),
        classes=tuple(-1 if item.answer is None else rank[item.answer] for item in items),
        majority=ranked[0][0] if ranked else None,
        majority_class=0 if ranked else -1,
        count=ranked[0][1] if ranked else 0,
        parsed=sum(counts.values()),
    )
