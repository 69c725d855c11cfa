"""Extraction, canonical form, equivalence traps and votes."""

# ruff: noqa: RUF001 - the look-alike characters are the point

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from srt.answers import EXTRACTORS, Grader, canonical, extract
from srt.answers.extract import boxed_authors
from srt.common.errors import SrtError


@pytest.fixture(scope="module")
def clean():
    with Grader(preset="clean") as grader:
        yield grader


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        (r"so \boxed{5}.", "5", "ok"),
        (r"\boxed{1} then \boxed{\frac{1}{2}} and more text $x$", r"\frac{1}{2}", "ok"),
        (r"\fbox{7}", "7", "ok"),
        (r"\boxed{3} or rather \fbox{4}", "4", "ok"),
        (r"\boxed{\boxed{6}}", "6", "ok"),
        (r"\boxed 5 apples", "5", "ok"),
        (r"\boxed 1,234.5$", "1,234.5", "ok"),
        (r"$\boxed x+1$", "x+1", "ok"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "ok"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right.", "ok"),
        (r"\boxed {8}", "8", "ok"),
        (r"\boxed{12", None, "unclosed_box"),
        (r"\boxed{1} and \boxed{\frac{1}{2}", None, "unclosed_box"),
        (r"\boxed{\boxed{", None, "unclosed_box"),
        (r"\boxed", None, "unclosed_box"),
        (r"\boxed{  }", None, "empty_box"),
        (r"\boxedness{5}", None, "no_box"),
        ("the answer is 5", None, "no_box"),
        ("", None, "no_box"),
        (r"\boxed{" + "9" * 3000 + "}", None, "too_long"),
    ],
)
def test_boxed(text, answer, reason):
    assert (extract(text).answer, extract(text).reason) == (answer, reason)


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        ("it costs $1,234.50 in total.", "1,234.50", "ok"),
        ("so x = -3/4.", "-3/4", "ok"),
        (r"thus \frac{3}{4} remains", r"\frac{3}{4}", "ok"),
        ("12 apples and 5 pears", "5", "ok"),
        ("7km later", "7", "ok"),
        (r"5 and \boxed{6}", "6", "ok"),
        (r"5 and \boxed{6", None, "unclosed_box"),
        ("nothing", None, "no_number"),
        ("17" + " words" * 2000, "17", "ok"),
        ("1" * 5000 + " end", None, "too_long"),
    ],
)
def test_boxed_or_last_number(text, answer, reason):
    found = extract(text, "boxed_or_last_number")
    assert (found.answer, found.reason) == (answer, reason)


def test_other_extractors():
    assert extract("<answer>a</answer> no <answer> 0x1f </answer>", "reasoning_gym").answer == "0x1f"
    assert extract(r"<answer>a</answer> \boxed{b}", "reasoning_gym").answer == "b"
    assert extract("<answer>a", "reasoning_gym").reason == "no_tag"
    assert extract("<answer> </answer>", "reasoning_gym").reason == "empty_tag"
    assert extract("work\n#### 1,200\nmore", "gsm8k_hash").answer == "1,200"
    assert extract("work", "gsm8k_hash").reason == "no_hash"
    assert extract("#### \n", "gsm8k_hash").reason == "empty_hash"
    assert list(EXTRACTORS) == ["boxed", "boxed_or_last_number", "reasoning_gym", "gsm8k_hash"]


def test_authors_extraction_quirks():
    assert boxed_authors(r"\boxed{ 5}").answer == " 5"
    assert boxed_authors(r"\boxed{}").answer == ""
    assert boxed_authors(r"\fbox{5}").answer is None
    assert boxed_authors(r"\boxed{5} and \boxed 7 so$ x").answer == "7 so"
    assert boxed_authors(r"\boxed{5").answer is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("080", "80"),
        ("3:4", "6:8"),
        ("3:4", r"\frac{3}{4}"),
        ("2x:3y", r"\frac{2x}{3y}"),
        ("1,000", "1000"),
        ("1{,}000", "1000"),
        (r"2\,000", "2000"),
        ("1/2", r"\dfrac12"),
        ("0.5", r"\frac{1}{2}"),
        (r"1\frac{4}{5}", "9/5"),
        ("3 1/2", "3.5"),
        ("28\\%", "28"),
        (r"90^\circ", "90"),
        ("x=5", "5"),
        (r"x \in [-2,7]", "[-2,7]"),
        (r"-2 \le x \le 7", "[-2,7]"),
        ("x > 5", r"(5, \infty)"),
        ("5 < x", "x > 5"),
        (r"\text{(C)}", "C"),
        ("(C) Plane", r"\textbf{(C)}"),
        (r"\text{Even}", "even"),
        (r"5\text{ cm}^2", "5"),
        ("35 cm", "35"),
        (r"\$10", "10"),
        (r"\{2,1\}", "1, 2"),
        (r"\pm 3", "-3, 3"),
        ("p=-1, p=15/8", "-1, 15/8"),
        ("x=1, y=2", "(1,2)"),
        ("y=2, x=1", "(x,y)=(1,2)"),
        (r"\text{A, C}", "C, A"),
        ("No real solutions.", r"\text{no real solutions}"),
        (r"0.25\,\text{ cm}", "1/4"),
        ("1.50", "1.5"),
        (r"1.5\times10^3", "1500"),
        ("80 or 81", "081, 080"),
        ("２５", "25"),
        ("+7", "7"),
        ("−3", "-3"),
        (r"\sqrt{8}", r"2\sqrt2"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\frac{\pi}{2}", r"0.5\pi"),
        (r"10^{-1}", "0.1"),
        (r"(\sqrt{4}, 1)", "(2,1)"),
        (r"\{\sqrt{8}, 1\}", r"1, 2\sqrt{2}"),
        ("2x+4y=2", "x+2y=1"),
        ("y=x+1", "x-y+1=0"),
        (r"\sin^2 x+\cos^2 x+y", "y+1"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    ],
)
def test_equal(clean, a, b):
    assert clean.equal([(a, b), (b, a)]) == [True, True]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1", "100"),
        ("2:3", "3:2"),
        ("4:30", "4:30p"),
        ("4:30p", "4:31p"),
        ("1", "100\\%"),
        ("0.28", "28\\%"),
        ("[2,\\infty)", "(2,\\infty)"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", r"\{1,2\}"),
        ("(1,2)", "1,2"),
        ("(1,2)", "(2,1)"),
        ("(1,100)", "1100"),
        ("1,100", "(1,100)"),
        ("80 or 81", "80"),
        ("80 or 81", "81"),
        ("0.33", r"\frac{1}{3}"),
        ("5", "5.001"),
        ("2t", "2"),
        ("x=1,y=2", "x=2,y=1"),
        (r"\frac{9999999}{10000000}", "1"),
        ("0.0000001", "0.0000002"),
        ("odd", "even"),
        ("p - q", "p q"),
        (r"\mathrm{e}-x", "ex"),
        ("no", "0"),
        ("x>5", "x<5"),
        ("11a+c", "7=11a+c"),
        ("1", "2x+z=1"),
        ("2021", r"\pm 2021"),
        ("1:00", "12:00"),
        (r"1+\frac{1}{e}", r"1-\frac{1}{e}"),
        (r"\sqrt{2}", "1.41"),
        ("x^2", "x2"),
        (r"4\sqrt{2}", "4"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        (r"1\frac12", r"\frac12"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        ("(1,2),(3,4)", r"(1,2)\cup(3,4)"),
    ],
)
def test_not_equal(clean, a, b):
    assert clean.equal([(a, b), (b, a)]) == [False, False]


def test_none_and_empty_equal_nothing(clean):
    assert clean.equal([(None, "1"), (None, None), ("", ""), ("1", "1")]) == [False, False, False, True]


def test_canonical_examples():
    assert canonical(r"x=2\frac12") == "5/2"
    assert canonical("19, 46, and 82") == r"\{19,46,82\}"
    assert canonical(r"(-\infty,2)\cup(3,\infty)") == canonical(r"(3,\infty) \cup (-\infty, 2)")
    assert canonical("0.333333333") == "0.333333333"


# ---- votes


def boxes(*answers):
    return ["no answer" if a is None else f"so \\boxed{{{a}}}" for a in answers]


def test_vote_reference_example():
    group = boxes("5", "5 ", "5", "6", None)
    with Grader(preset="authors") as authors, Grader() as clean:
        raw, merged = authors.vote([group])[0], clean.vote([group])[0]
    assert (raw.majority, raw.count, raw.parsed) == ("5", 2, 4)
    assert (merged.majority, merged.count, merged.parsed) == ("5", 3, 4)
    assert merged.classes == (0, 0, 0, 1, -1)
    assert merged.consistency == 0.75 and merged.consistency_all == 0.6
    assert merged.reasons[-1] == "no_box"


def test_ties(clean):
    with Grader(preset="authors") as authors:
        assert authors.vote([boxes("a", "b"), boxes("b", "a")])[0].majority == "a"
        assert authors.vote([boxes("b", "a")])[0].majority == "b"
    assert clean.vote([boxes("7", "3")])[0].majority == clean.vote([boxes("3", "7")])[0].majority
    winners = [clean.vote([boxes(str(i), str(i + 100))])[0].majority == str(i) for i in range(200)]
    assert 60 < sum(winners) < 140  # prefers neither the smaller nor the shorter answer


def test_nothing_parsed_and_empty_box(clean):
    vote = clean.vote([boxes(None, "", " ")])[0]
    assert (vote.majority, vote.majority_class, vote.count, vote.parsed) == (None, -1, 0, 0)
    assert vote.reasons == ("no_box", "empty_box", "empty_box") and vote.consistency == 0
    with Grader(preset="authors") as authors:
        assert authors.vote([boxes("", "", "1")])[0].majority == ""  # their training counts it
        assert authors.vote([boxes("", "", "1")], evaluation=True)[0].majority == "1"  # their maj@32 does not


def test_union_makes_classes_transitive(clean):
    # 0.333333 equals two exact values that differ: together all three are one class, in any order.
    third, near = r"\frac{1}{3}", r"\frac{333333}{1000000}"
    assert clean.equal([(third, near)]) == [False]
    for group in ([third, near, "0.333333"], ["0.333333", third, near]):
        assert clean.vote([boxes(*group)])[0].classes == (0, 0, 0)


def test_percent_does_not_bridge(clean):
    vote = clean.vote([boxes("1", "100", "100\\%")])[0]
    assert sorted(vote.classes) == [0, 0, 1] and vote.classes[1] == vote.classes[2]


def test_verify_agrees_with_classes(clean):
    group = boxes("1/2", "0.5", r"\frac{2}{4}", r"\sqrt{2}", r"\frac{2}{\sqrt2}", "3", None)
    vote = clean.vote([group])[0]
    verdicts = clean.verify([group], [vote.majority])[0]
    assert [v.correct for v in verdicts] == [c == 0 for c in vote.classes]
    assert verdicts[-1].reason == "no_box"


def test_labels_missing_and_alternatives(clean):
    assert [v.reason for v in clean.verify([boxes("1")] * 2, [None, " "])[0]] == ["no label"]
    verdicts = clean.verify([boxes("80", "081", "82", "080 or 081")], ["080 or 081"])[0]
    assert [v.correct for v in verdicts] == [True, True, False, True]
    assert [v.correct for v in clean.verify([boxes("1", "2", "1 or 2")], ["1 or 2"])[0]] == [False, False, True]


def test_verify_answers(clean):
    verdicts = clean.verify_answers(["1/2", None, "3"], ["0.5", "1", None])
    assert [(v.correct, v.reason) for v in verdicts] == [(True, "ok"), (False, "no answer"), (False, "no label")]


def test_wrong_settings():
    for kwargs, word in [
        ({"preset": "authers"}, "authors"),
        ({"extractor": "box"}, "boxed"),
        ({"task": "chainsum"}, "chain_sum"),
        ({"workers": 0}, "workers"),
    ]:
        with pytest.raises(SrtError, match=word):
            Grader(**kwargs)
    with Grader() as grader, pytest.raises(SrtError, match="no comparison"):
        grader.vote([["x"]], tasks=["maze"])


def test_integers_need_no_process_and_no_sympy():
    code = (
        "import sys; from srt.answers import Grader\n"
        "g = Grader(); a = Grader('authors')\n"
        "groups = [['x'*200 + chr(92) + 'boxed{%d}' % (i * j % 7) for i in range(32)] for j in range(16)]\n"
        "for grader in (g, a):\n"
        "    votes = grader.vote(groups); grader.verify(groups, [v.majority for v in votes])\n"
        "    assert not any(grader.counters.values()), grader.counters\n"
        "assert not {'sympy', 'math_verify'} & set(sys.modules)\n"
    )
    source = str(Path(__file__).resolve().parent.parent.parent / "src")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})


TINY = [
    (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"),
    (r"\frac{1}{3\cdot2^{2006}}", r"\frac{2^{2005}+1}{3\cdot2^{2006}}"),
    (r"\frac{1}{5000!}", r"\frac{1}{5001!}"),  # too long for this process: sympy
    (r"\left|\frac{1}{2^{98}}\right|", r"\frac{1}{2^{99}}"),
    (r"x^2+y^2=1+2^{-98}", "x^2+y^2=1"),
    (r"\sqrt{2}", r"\frac{1414213562}{1000000000}"),
    (r"10^{500}", r"10^{500}+1"),
]


@pytest.mark.parametrize(("a", "b"), TINY)
def test_a_tolerance_is_relative(clean, a, b):
    assert clean.equal([(a, b), (b, a), (a, a)]) == [False, False, True]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\sqrt{1/n}", r"1/\sqrt{n}", True),
        ("exp(16)", "e^{16}", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\ln(x^2)", r"2\ln(x)", False),
        (r"\sqrt{(x+5)^2}", "x+5", False),
        (r"\sin(\pi)", "0", True),
        ("1.414214", r"\sqrt{2}", True),
    ],
)
def test_functions_are_the_same_where_they_are_real(clean, a, b, same):
    assert clean.equal([(a, b), (b, a)]) == [same, same]


def test_an_ordinal_is_its_number_beside_a_plain_number_only(clean):
    response = [r"\boxed{12^{\mathrm{th}}\text{ grade}}"]
    verdicts = clean.verify([response] * 3, ["12", "13", r"12\text{ cm}"])
    assert [v.correct for (v,) in verdicts] == [True, False, False]
    assert clean.equal([("12th grade", "12"), ("12 thousand", "12"), ("12", "12th grade")]) == [True, False, False]
