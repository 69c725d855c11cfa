"""Nothing that a model writes may hang or crash the grader, or exhaust the machine's memory."""

from __future__ import annotations

import os
import random
import threading

import pytest

from srt.answers import EXTRACTORS, Grader, canonical, extract
from srt.answers.comparison_pool import ComparisonPool
from support.work import calls_of

HOSTILE = {
    "tower": "10^{10^{10}}",
    "factorial": "9999999!",
    "double tower": "9^{9^{9^{9}}}",
    "power": "2^{2^{40}}+x",
    "huge sum": r"\sum_{k=1}^{10^{12}} \frac{1}{k^2+k+1}",
    "integral": r"\int_0^{\infty} e^{-x^{3}}\sin(x^{5})\cos(\tan(x))dx",
    "deep parentheses": "(" * 900 + "1" + ")" * 900,
    "deep fractions": "\\frac{1}{" * 300 + "2" + "}" * 300,
    "deep roots": "\\sqrt{" * 150 + "2" + "}" * 150,
    "nul": "1\x002",
    "unicode digits": "١٢٣",
    "superscript": "²³⁴",
    "surrogate": "\ud800",
    "newlines": "\n" * 500,
    "backslashes": "\\" * 999,
    "commas": "," * 1500,
    "python": "__import__('os').system('touch srt-pwned')",
    "division": "1/0",
    "nan": "nan",
    "binomial": r"\binom{10^9}{10^8}",
}


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout_s=0.5, memory_mb=512) as grader:
        yield grader


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_come_back(grader, name):
    number = 2 + list(HOSTILE).index(name)  # other neighbours in each case, so that none is cached
    group = [f"\\boxed{{{HOSTILE[name]}}}", f"\\boxed{{x+{number}}}", f"\\boxed{{{number}+x}}", "\\boxed{\\sqrt{8}}"]
    vote = grader.vote([group])[0]
    assert vote.classes[1] == vote.classes[2] != vote.classes[3]  # the neighbours are unharmed
    verdicts = grader.verify([group], [f"x+{number}"])[0]
    assert [v.correct for v in verdicts[1:]] == [True, True, False] and not verdicts[0].correct
    assert not os.path.exists("srt-pwned")


@pytest.mark.timeout(120)  # a quadratic pattern takes far longer
@pytest.mark.parametrize(
    "text",
    [
        "{" * 10**6,
        "\\boxed{" * 150_000,
        "\\boxed{" + "{" * 10**6,
        "\\boxed{" + "}{" * 500_000,
        "}" * 10**6 + "\\boxed{1",
        "\\boxed " * 150_000,
        "9" * 10**6,
        "1," * 500_000,
        "1/" * 500_000,
        "\\" * 10**6,
        "\\boxed" * 160_000,
        " " * 10**6,
        "\\frac{1}" * 125_000,
        "#### " * 200_000,
        "<answer>" * 120_000,
        "-" * 10**6,
        "1.1" * 330_000,
        "\\boxed{1}" * 110_000,
    ],
)
def test_megabytes_are_read_in_linear_time(text):
    for name in EXTRACTORS:
        extract(text, name)
    with Grader() as grader, Grader("authors") as authors:
        grader.vote([[text, text]])
        authors.vote([[text, text]])


@pytest.mark.parametrize(
    "piece", ["{", "}", "(", "1,", "\\frac", "\\text{", "a=", "<", "\\pm", "\\{", "\\\\", "1 ", "^", "or ", "x", "$"]
)
def test_canonical_form_of_the_longest_answers(piece):
    text = (piece * 2000)[:2000]
    assert calls_of(lambda: canonical(text)) < 20 * len(text)


PIECES = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "1",
    ",",
    ".",
    "/",
    "-",
    "+",
    "\\frac",
    "\\text{",
    "a",
    "=",
    "<",
    "\\le ",
    "\\pm",
    "\\{",
    "'",
    "\\\\",
    " ",
    "^",
    "or ",
    "x",
    "$",
    "%",
    "_",
    "\\begin",
    "\\cup",
    "sqrt(",
    "!",
    "|",
    ":",
    "~",
    "\\,",
    "cm",
    "\\in ",
    "sq ",
    "percent",
    "\\circ",
    "\\times10^",
    "\n",
    "\\boxed",
    "####",
    "<answer>",
]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_random_repetitions_cost_little():
    """Quadratic or exponential patterns show up when a short unit is repeated and the end does not fit."""
    rng = random.Random(0)
    for _ in range(300):
        unit = "".join(rng.choices(PIECES, k=rng.randint(1, 6)))
        head, tail = ("".join(rng.choices(PIECES, k=2)) for _ in range(2))
        text = head + (unit * 2000)[:1900] + tail
        assert calls_of(lambda text=text: canonical(text)) < 20 * len(text), unit
        for name in EXTRACTORS:
            extract((unit * 50_000)[:50_000] + tail, name)


@pytest.mark.slow
def test_a_killed_item_is_a_timeout_and_its_neighbours_are_not():
    with Grader(timeout_s=0.5) as grader:
        responses = ["\\boxed{10^{10^{10}}}", "\\boxed{(x+1)^2}", "\\boxed{x^2+2x+1}"]
        verdicts = grader.verify([responses], ["x^2+2x+1"])[0]
        assert [(v.correct, v.reason) for v in verdicts] == [(False, "timeout"), (True, "ok"), (True, "ok")]
        assert grader.counters["timeouts"] + grader.counters["memory_kills"] == 1
        grader.verify([responses], ["x^2+2x+1"])
        assert grader.counters["cache_hits"] == 1  # known pairs come from the cache
        assert grader.counters["timeouts"] + grader.counters["memory_kills"] == 1


@pytest.mark.slow
def test_memory_limit_kills():
    pool = ComparisonPool(1, timeout_s=20.0, memory_mb=300)
    try:
        # a number of 2^33 bits is a gigabyte: memory runs out long before 20 CPU seconds
        answers = pool.run([["metric", r"$\boxed{2^{2^{33}}}$", "x+1"], ["metric", "\\boxed{5}", "5"]])
        assert answers == ["memory", True] and pool.counters["memory_kills"] == 1
    finally:
        pool.close()


@pytest.mark.slow
def test_the_pool_survives_two_hundred_kills_in_a_row():
    pool = ComparisonPool(2, timeout_s=0.03, memory_mb=1024)
    try:
        jobs = [["metric", f"\\boxed{{{i}^{{10^{{10}}}}}}", "x+1"] for i in range(2, 202)]
        answers = pool.run(jobs)
        killed = sum(isinstance(answer, str) for answer in answers)
        assert killed == 200 and pool.counters["timeouts"] + pool.counters["memory_kills"] == 200
        assert pool.counters["processes_started"] == 2 and pool.counters["process_restarts"] == 0
        assert pool.run([["equal", "1/2", "0.5"]]) == [True]  # and it still works
    finally:
        pool.close()


def test_works_in_a_thread():
    # Math-Verify's own timeout uses signal.alarm, which raises outside the main thread, so every answer would be wrong.
    found = []

    def grade():
        with Grader(preset="authors") as grader:
            found.append(grader.verify([["so $x=\\frac{1}{2}$"]], ["0.5"])[0][0].correct)

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join(60)
    assert found == [True]


def test_no_process_is_left_behind():
    grader = Grader(timeout_s=5)
    assert grader.equal([("|x|", "\\sqrt{x^2}")]) == [True]
    pids = [process.pid for process in grader._pool.processes]
    grader.close()
    assert pids and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_text_never_reaches_eval():
    from srt.answers.sympy_arithmetic import parse_arithmetic

    assert str(parse_arithmetic("2*(3+4)").doit()) == "14"
    assert str(parse_arithmetic("-2**2").doit()) == "-4"
    assert str(parse_arithmetic("1/4-.5").doit()) == "-0.250000000000000"
    for text in ["__import__('os')", "x", "1;2", "().__class__", "", "1+", "(1", "lambda: 1"]:
        with pytest.raises(ValueError):
            parse_arithmetic(text)
