"""Reasoning Gym answers: agreement with the library's scorers on "fully correct", without reading the entry."""

from __future__ import annotations

import inspect

import pytest

from srt.answers import Grader
from srt.answers import reasoning_gym as ours

TASKS = list(ours.KEYS)


def variants(answer: str, other: str) -> list[str]:
    """Right, wrong and unusually written predictions for an entry."""
    out = [
        answer,
        other,
        f" {answer}",
        f"{answer} ",
        answer.upper(),
        answer.lower(),
        f"{answer}.",
        f"{answer}.0",
        f"+{answer}",
    ]
    out += [
        f"The answer is {answer}",
        f"0{answer}",
        f"{answer}1",
        "",
        "nonsense",
        f"-{answer}",
        answer.replace("0x", ""),
    ]
    out += [
        answer.replace(" and ", ", "),
        answer.replace("knight", "knave"),
        f"{answer}00",
        "1e3",
        "nan",
        "Infinity",
        "1_0",
    ]
    if answer.startswith("0x"):
        out += [str(int(answer, 16)), bin(int(answer, 16)), answer.replace("0x", "0X")]
    if ", and " in answer:  # the same assignments the other way round
        left, right = answer.rstrip(".").split(", and ", 1)
        out.append(f"{right}, and {left}.")
    if answer.lstrip("-").isdigit():
        out += [f"{int(answer):,}", f"{int(answer) + 1}"]
    return out


@pytest.mark.parametrize("task", TASKS)
def test_full_agreement_with_the_library(task):
    import reasoning_gym

    data = reasoning_gym.create_dataset(task, size=60, seed=7)
    entries = list(data)
    checked = right = 0
    for entry, following in zip(entries, entries[1:] + entries[:1], strict=True):
        for prediction in variants(str(entry["answer"]), str(following["answer"])):
            theirs = data.score_answer(prediction, entry) == 1.0
            assert ours.match(prediction, str(entry["answer"]), task) == theirs, (prediction, entry["answer"])
            checked += 1
            right += theirs
    assert checked > 1000 and 60 <= right < checked


def test_roles_are_the_library_s():
    from reasoning_gym.logic import knights_knaves as module

    assert module.VALID_ROLES == ours._ROLES


def test_sees_prediction_and_label_only():
    # A metadata-reading scorer would accept the truth here; ours follows the (wrong) pseudo-label.
    assert list(inspect.signature(ours.match).parameters) == ["prediction", "label", "task"]
    assert ours.match("0x10", "0x10", "bitwise_arithmetic") and not ours.match("0x11", "0x10", "bitwise_arithmetic")


def test_binary_without_partial_credit():
    label = "Ann is a knight, and Bob is a knave."
    assert not ours.match("Ann is a knight, and Bob is a knight.", label, "knights_knaves")
    assert ours.match("bob is a knave and ann is a knight", label, "knights_knaves")


def test_grader_votes_per_task():
    with Grader(extractor="reasoning_gym") as grader:
        groups = [
            [r"\boxed{\text{0x1f}}", "<answer>31</answer>", r"\boxed{0x20}", r"\boxed{hm}"],
            [r"\boxed{1{,}000}", r"\boxed{1000.0}", r"\boxed{7}"],
            [r"\boxed{\frac12}", r"\boxed{0.5}"],
        ]
        votes = grader.vote(groups, tasks=["bitwise_arithmetic", "chain_sum", "math"])
        assert votes[0].classes == (0, 0, 1, -1) and votes[0].reasons[3] == "not_in_task_form"
        assert votes[1].classes == (0, 0, 1) and votes[2].classes == (0, 0)
        verdicts = grader.verify(groups, ["0x1f", "1000", "1/2"], tasks=["bitwise_arithmetic", "chain_sum", "math"])
        assert [[v.correct for v in group] for group in verdicts] == [
            [True, True, False, False],
            [True, True, False],
            [True, True],
        ]
        assert grader.counters["processes_started"] == 0
