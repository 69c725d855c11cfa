"""Agreement with upstream graders on real cases: `pytest -s tests/answers/test_grading_agreement.py` prints it.

Other cases of the same form can be checked with SRT_GRADING_CASES and SRT_GRADING_OUTPUTS (paths to jsonl files).

Hand-written cases are graded by what their options name: `match_types` (and nothing) means Math-Verify on whole
texts, which is what the `authors` preset runs in the worker; `symmetric` means two answers, the `clean` relation; a
`verifier` of GSM8K means the last number of a text. Model outputs are pairs of answers: the `clean` relation.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from srt.answers import Grader, extract, formula_value
from srt.answers.canonical import parse
from srt.answers.equivalence import value_of

OURS, THEIRS, CONVENTION = "ours wrong", "theirs wrong", "convention"


def load(shared_data: Path, name: str, variable: str) -> list[dict]:
    path = Path(os.environ.get(variable, shared_data / name))
    if not path.exists():
        pytest.skip(f"{path.name} is absent")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def classify(pred: str, gold: str, expected: bool | None) -> str:
    """A first guess, by form, at who is wrong; docs/answers.md has the verdicts of a person."""
    a, b = parse(pred), parse(gold)
    x, y = a.value, b.value
    if expected and x is not None and y is not None and x != y:
        return THEIRS  # two different numbers called equal
    if expected and a.kind == b.kind == "tuple" and a.brackets != b.brackets:
        return THEIRS  # a closed and an open interval called equal
    if expected and {a.kind, b.kind} in ({"list", "number"}, {"words", "number"}, {"formula", "number"}):
        return THEIRS
    u, v = value_of(a), value_of(b)
    if expected and u is not None and v is not None and not formula_value.agree(u.number, v.number):
        return THEIRS  # two formulas with different values called equal
    if not expected and (a.text == b.text or a.kind in ("formula", "equation")):
        return THEIRS  # equal by canonical form, or proven by sympy
    return CONVENTION if a.kind != b.kind or "text" in pred + gold else OURS


def report(title: str, rows: list[tuple[dict, object]]) -> float:
    wrong = [(case, verdict) for case, verdict in rows if verdict != case["expected"]]
    agreement = 1 - len(wrong) / len(rows)
    print(f"\n{title}: {agreement:.2%} of {len(rows)} agree")
    kinds: Counter[str] = Counter()
    for case, verdict in wrong:
        pred, gold = str(case["pred"]), str(case["gold"])
        kind = classify(pred, gold, case["expected"])
        kinds[kind] += 1
        print(
            f"  {kind}: {case['id']} expected {case['expected']}, ours {verdict}: {pred[-70:]!r} against {gold[-50:]!r}"
        )
    print(f"  {dict(kinds)}")
    return agreement


@pytest.mark.slow
def test_hand_written_cases(shared_data):
    cases = load(shared_data, "grading_cases.jsonl", "SRT_GRADING_CASES")
    labels: dict[tuple[str, str], set] = {}
    for case in cases:
        labels.setdefault((str(case["pred"]), str(case["gold"])), set()).add(case["expected"])
    verdicts: dict[str, object] = {}
    with Grader(preset="clean") as grader:
        texts = []
        for case in cases:
            options = case["options"] or {}
            pred, gold = str(case["pred"]), str(case["gold"])
            if options.get("symmetric"):
                verdicts[case["id"]] = grader.equal([(pred, gold)])[0]
            elif "verifier" in options:
                answers = [extract(text, "boxed_or_last_number").answer or text for text in (pred, gold)]
                verdicts[case["id"]] = grader.equal([(answers[0], answers[1])])[0]
            else:
                types = options.get("match_types", ["latex", "expr"])
                relation = bool(options.get("allow_set_relation_comp", False))
                texts.append((case["id"], ["text", pred, gold, types, options.get("precision", 6), relation]))
        answers = grader._pool.run([job for _, job in texts])
        verdicts.update({case_id: answer for (case_id, _), answer in zip(texts, answers, strict=True)})
    rows = [(case, verdicts[case["id"]]) for case in cases]
    single = [row for row in rows if len(labels[str(row[0]["pred"]), str(row[0]["gold"])]) == 1]
    print(f"\n{len(rows) - len(single)} cases carry both labels and are left out of the measure")
    assert report("hand-written cases", single) >= 0.97


@pytest.mark.slow
def test_model_outputs(shared_data):
    cases = load(shared_data, "grading_cases_model_outputs.jsonl", "SRT_GRADING_OUTPUTS")
    with Grader(preset="clean") as grader:
        verdicts = grader.equal([(str(case["pred"]), str(case["gold"])) for case in cases])
    assert report("model outputs", list(zip(cases, verdicts, strict=True))) >= 0.995
