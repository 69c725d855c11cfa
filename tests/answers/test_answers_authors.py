"""The `authors` preset: Math-Verify on the whole response, and our shortcut for boxed integers."""

from __future__ import annotations

import logging
import random

import pytest

from srt.answers import Grader
from srt.answers.grader import _boxed_integer_verdict


@pytest.fixture(scope="module")
def authors():
    with Grader(preset="authors") as grader:
        yield grader


def correct(grader, responses, label):
    return [v.correct for v in grader.verify([responses], [label])[0]]


def test_corner_cases_of_the_reference(authors):
    # (a) equivalent strings did not vote together but are rewarded
    group = [r"\boxed{\frac12}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", r"\boxed{3}"]
    vote = authors.vote([group])[0]
    assert vote.majority == r"\frac12" and vote.count == 1
    assert correct(authors, group, vote.majority) == [True, True, True, False]
    # (b) a response without a box is rewarded when Math-Verify finds the number elsewhere
    assert correct(authors, ["the answer is 5", "5 apples", "none at all"], "5") == [True, True, False]
    # (c) an empty majority gives no signal
    vote = authors.vote([[r"\boxed{}", r"\boxed{}", r"\boxed{2}"]])[0]
    assert vote.majority == "" and vote.count == 2
    assert correct(authors, [r"\boxed{}", r"\boxed{2}"], vote.majority) == [False, False]


def test_a_label_that_does_not_parse_never_raises(authors):
    assert correct(authors, [r"\boxed{5}", ""], "%%%{{") in ([False, False], [True, False])


@pytest.mark.slow
def test_agrees_with_math_metric():
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, metric

    logging.disable(logging.CRITICAL)
    verify = metric.math_metric((LatexExtractionConfig(),), (ExprExtractionConfig(), LatexExtractionConfig()))
    responses = [
        r"so \boxed{5}",
        r"$\boxed{5}$ %",
        r"\[\boxed{-5}\] 5 more",
        r"\boxed{5} and \boxed{6}",
        r"final answer is 6. \boxed{5}",
        r"\boxed{5",
        "5",
        "x = 5 then 6",
        r"\boxed{05}",
        r"\boxed{5}\%",
        r"$x=\boxed{5}$ percent",
        r"\fbox{6} \boxed{5}",
        "",
        r"Answer: 7. \boxed{5}",
        r"\boxed{5}, so 12",
        r"$3$ and \boxed{5}",
        r"\boxed{5.0}",
        r"\boxed{\text{5}}",
        "2+3 apples",
        r"$\boxed{5}$ and $6$",
        "no digits here",
        r"The final answer is $\boxed{5}$. I hope it is correct.",
        r"\( \boxed{5} \)%",
    ]
    rng = random.Random(0)
    words = ["so", "x=3", r"\boxed{7}", "12%", "$y$", "final", "answer is 7", r"\[ 7 \]", ".", "and", "7", "I hope"]
    responses += [" ".join(rng.choices(words, k=rng.randint(1, 7))) for _ in range(150)]
    with Grader(preset="authors") as grader:
        for label in ("5", "-5", "7", "0"):
            ours = correct(grader, responses, label)
            for text, verdict in zip(responses, ours, strict=True):
                try:
                    theirs = verify([f"\\boxed{{{label}}}"], [text])[0] == 1.0
                except Exception:  # the authors' reward: any exception is a zero
                    theirs = False
                assert verdict == theirs, (text, label)
                shortcut = _boxed_integer_verdict(text, label)
                assert shortcut is None or shortcut == theirs, (text, label)
    logging.disable(logging.NOTSET)


def test_repeated_responses_are_compared_once(authors):
    before = authors.counters["compared"]
    assert correct(authors, ["it is 11 then"] * 5, "11") == [True] * 5
    assert authors.counters["compared"] == before + 1
