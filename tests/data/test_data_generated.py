"""Generated data sets: distinct, split by text, reproducible in another process, and with right labels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.graphs.family_relationships import FamilyRelationshipsConfig

from srt.common.errors import SrtError
from srt.config.datasets import parse_dataset
from srt.data import PROBLEM_SCHEMA, fingerprint, load, load_with_report, question_key
from srt.data.arithmetic import exact_value
from srt.data.generated import HASH_SEED_DEPENDENT, UNSEEDED, check_name
from srt.data.keys import TEST_SHARE, generated_split, hash_share, holdout_part
from srt.data.kinship import relationship
from support import ROOT

FAMILIES: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2},
    "basic_arithmetic": {},
    "products": {},
    "knights_knaves": {"n_people": 3},
    "bitwise_arithmetic": {"difficulty": 2},
    "family_relationships": {"min_family_size": 4, "max_family_size": 11},
    "gsm_symbolic": {},
}
TEXT = st.text(max_size=40)
GOLDEN_PROBLEMS = [
    "State the final answer to the following arithmetic problem: 84 - 63 - 29 =",
    "State the final answer to the following arithmetic problem: 50 - 77 - 20 =",
    "State the final answer to the following arithmetic problem: 18 + 94 + 58 =",
]
GOLDEN_FINGERPRINT = "63b7757d927dc5f39ec2e24c633a1fa0f6ee70457ae84bc567ca83b782c748fd"


def entry(name: str = "chain_sum", **changes: Any) -> Any:
    base = {"source": "reasoning_gym", "name": name, "params": FAMILIES[name], "size": 40, "split": "train"}
    return parse_dataset("t", base | changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    train, test = (load(entry(name, split=split, level="3"), "t") for split in ("train", "test"))
    for table in (train, test):
        assert table.schema == PROBLEM_SCHEMA and table.num_rows == 40
        assert len(set(table["id"].to_pylist())) == 40
        assert set(table["task"].to_pylist()) == {name} and set(table["level"].to_pylist()) == {"3"}
        assert all(answer.strip() for answer in table["answer"].to_pylist())
    keys = [{question_key(text) for text in table["problem"].to_pylist()} for table in (train, test)]
    assert len(keys[0]) == len(keys[1]) == 40 and not keys[0] & keys[1]


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seeds=st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), digits=st.tuples(*[st.integers(1, 3)] * 2))
def test_train_and_test_are_disjoint_over_seeds_and_levels(seeds: tuple[int, int], digits: tuple[int, int]) -> None:
    sides = []
    for split, seed, most in zip(("train", "test"), seeds, digits, strict=True):
        params = {"min_terms": 2, "max_terms": 3, "max_digits": most}
        table = load(entry(params=params, seed=seed, split=split, size=60), "t")
        sides.append({question_key(text) for text in table["problem"].to_pylist()})
    assert not sides[0] & sides[1]


def test_smaller_is_the_head_of_larger() -> None:
    mix = [{"params": FAMILIES["chain_sum"], "weight": 2}, {"params": {"min_digits": 3}, "weight": 3}]
    for changes in ({}, {"params": {}, "mix": mix}):
        small, large = (load(entry(size=size, **changes), "t") for size in (150, 1300))
        assert large.slice(0, 150).equals(small)


def test_neighbouring_seeds_share_almost_nothing() -> None:
    # reasoning_gym itself gives 499 of 500 items in common here
    params = {"min_terms": 5, "max_terms": 5, "min_digits": 3, "max_digits": 3}
    first, second = (set(load(entry(params=params, seed=s, size=500), "t")["id"].to_pylist()) for s in (1, 2))
    assert not first & second


def test_mix_interleaves_by_weight() -> None:
    parts = [
        {"params": {"min_terms": 2, "max_terms": 2}, "weight": 1, "level": "medium"},
        {"params": {"min_terms": 5, "max_terms": 5}, "weight": 2, "level": "hard"},
    ]
    table = load(entry(params={}, mix=parts, size=90), "t")
    levels = table["level"].to_pylist()
    assert Counter(levels) == {"medium": 30, "hard": 60}
    for n in range(1, 91):
        assert abs(levels[:n].count("hard") - 2 * n / 3) < 1
    terms = [sum(token.isdigit() for token in text.split()) for text in table["problem"].to_pylist()]
    assert set(zip(levels, terms, strict=True)) == {("medium", 2), ("hard", 5)}


def test_parts_of_a_mix_do_not_repeat_each_other() -> None:
    same = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    table = load(entry(params={}, mix=[{"params": same}, {"params": same | {"min_digits": 1}}], size=60), "t")
    assert len(set(table["problem"].to_pylist())) == 60


HASHES = """
import json, sys
from srt.config.datasets import parse_dataset
from srt.data import fingerprint, load
print(json.dumps([fingerprint(load(parse_dataset("t", e), "t")) for e in json.loads(sys.argv[1])]))
"""


@pytest.mark.slow
def test_another_process_with_other_string_hashes_makes_the_same() -> None:
    entries = [entry(name, size=120, split="test") for name in FAMILIES]
    spec = json.dumps([e.model_dump(mode="json") for e in entries])
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "4242"}
    command = [sys.executable, "-c", HASHES, spec]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [fingerprint(load(e, "t")) for e in entries]


def test_rows_never_change() -> None:
    """Recorded once: another hash or generator would change every stored result."""
    table = load(entry(split="test", size=3), "t")
    assert table["problem"].to_pylist() == GOLDEN_PROBLEMS
    assert fingerprint(table) == GOLDEN_FINGERPRINT


def test_whole_space_can_be_used_and_then_ends() -> None:
    tiny = {"min_terms": 2, "max_terms": 2, "max_digits": 1}  # 10 * 2 * 10 questions
    sizes = {}
    for split in ("train", "test"):
        with pytest.raises(
            SrtError, match=r"has only \d+ distinct questions .* lower `size` or widen `params`"
        ) as caught:
            load(entry(params=tiny, split=split, size=201), "t")
        sizes[split] = int(str(caught.value).split("only ")[1].split()[0])
        assert load(entry(params=tiny, split=split, size=sizes[split]), "t").num_rows == sizes[split]
    assert sizes["train"] + sizes["test"] == 200


@pytest.mark.parametrize(
    "params", [{}, {"allow_parentheses": False}, {"allow_parentheses": False, "max_terms": 2, "operators": ["*", "/"]}]
)
def test_wrong_labels_of_basic_arithmetic_are_left_out(params: dict[str, Any]) -> None:
    loaded = load_with_report(entry("basic_arithmetic", params=params, size=400), "t")
    assert loaded.counts["wrong_label_upstream"] > 0
    for problem, answer in zip(*(loaded.table[c].to_pylist() for c in ("problem", "answer")), strict=True):
        assert exact_value(problem.removeprefix("Calculate ").removesuffix(".")) == Fraction(answer)


def test_wrong_labels_of_family_relationships_are_left_out() -> None:
    loaded = load_with_report(entry("family_relationships", size=1200), "t")
    assert 0.1 < loaded.counts["wrong_label_upstream"] / loaded.counts["drawn"] < 0.25
    men, women = FamilyRelationshipsConfig().male_names, FamilyRelationshipsConfig().female_names
    words = Counter()
    for problem, answer in zip(*(loaded.table[c].to_pylist() for c in ("problem", "answer")), strict=True):
        story, question = problem.split("\n\n")
        one, two = (name for name in re.findall(r"\w+", question) if name in {*men, *women})
        assert relationship(story, one, two, men) == answer
        words[answer] += 1
        # parents-in-law are only asked about in the other direction, for which the library has no word
        assert answer not in ("mother-in-law", "father-in-law")
    assert {"niece", "nephew", "aunt", "uncle", "grandfather", "sister", "wife", "son"} <= set(words)


STORY = (
    "Otto is married to Ada. They have children called Max, Eva and Kai. Eva is married to Ben. They have a child "
    "called Lea. Max is married to Ida. They have children called Tim and Zoe."
)


@pytest.mark.parametrize(
    ("one", "two", "word"),
    [
        ("Ada", "Otto", "wife"), ("Otto", "Max", "father"), ("Eva", "Ada", "daughter"), ("Eva", "Kai", "sister"),
        ("Ada", "Lea", "grandmother"), ("Tim", "Otto", "grandson"), ("Max", "Lea", "uncle"), ("Kai", "Zoe", "uncle"),
        ("Lea", "Max", "niece"), ("Tim", "Eva", "nephew"), ("Ada", "Ben", "mother-in-law"),
        ("Otto", "Ida", "father-in-law"), ("Ben", "Otto", "son-in-law"), ("Ida", "Ada", "daughter-in-law"),
        ("Tim", "Lea", None), ("Ben", "Kai", None), ("Ben", "Zoe", None),
    ],
)  # fmt: skip
def test_relationships_of_a_story(one: str, two: str, word: str | None) -> None:
    assert relationship(STORY, one, two, {"Otto", "Max", "Kai", "Ben", "Tim"}) == word


@pytest.mark.parametrize(
    ("text", "value"), [("5 - 3 * 6", -13), ("7 / 2", Fraction(7, 2)), ("-( 2 + -3 )", 1), ("1 / ( 2 - 2 )", None)]
)
def test_exact_value(text: str, value: Any) -> None:
    assert exact_value(text) == value


@pytest.mark.parametrize("text", ["2 ** 3", "x", "1.5", "__import__('os')", "", "1 +", "True"])
def test_exact_value_refuses_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="not an arithmetic expression"):
        exact_value(text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "chainsum"}, ["no 'chainsum'", "did you mean 'chain_sum'"]),
        ({"name": "composite"}, ["no 'composite'"]),
        ({"params": {"min_term": 3}}, ["no parameter 'min_term'", "did you mean 'min_terms'"]),
        ({"params": {"min_terms": 9}}, ["'min_terms': 9", "max_terms must be >= min_terms"]),
        ({"params": {"min_terms": "a"}}, ["'min_terms': 'a'", "correct them"]),
        ({"params": {"max_digits": 2.5}}, ["'max_digits': 2.5", "`params`"]),
        ({"params": {}, "mix": [{"level": "hard", "params": {"a": 1}}]}, ["mix part 0 ('hard')", "'a'"]),
    ],
)
@pytest.mark.filterwarnings("ignore:randrange:DeprecationWarning")
def test_wrong_params_are_one_sentence(changes: dict[str, Any], expected: list[str]) -> None:
    spec = {"source": "reasoning_gym", "name": "chain_sum", "size": 4, "split": "train"} | changes
    with pytest.raises(SrtError) as caught:
        load(parse_dataset("sums", spec), "sums")
    assert str(caught.value).startswith("data set 'sums'") and all(part in str(caught.value) for part in expected)


@pytest.mark.parametrize("name", sorted(UNSEEDED | HASH_SEED_DEPENDENT))
def test_families_that_cannot_be_reproduced_are_refused(name: str) -> None:
    if name in HASH_SEED_DEPENDENT and not sys.flags.hash_randomization:
        pytest.skip("PYTHONHASHSEED=0 is set, which makes these families reproducible")
    with pytest.raises(SrtError, match=r"reproduced|PYTHONHASHSEED=0"):
        check_name(name, "t")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(text=TEXT, salt=TEXT)
def test_shares_are_stable_and_ignore_space_and_case(text: str, salt: str) -> None:
    assert 0 <= hash_share(salt, text) < 1
    assert generated_split(text) == generated_split(" " + "\n".join(text) + "\t")
    small, large = holdout_part(text, 0.1), holdout_part(text, 0.5)
    assert not (small == "heldout" and large == "train"), "a larger fraction must hold out a superset"


def test_shares_are_uniform() -> None:
    shares = [hash_share("s", str(i)) for i in range(20000)]
    for share in (0.01, TEST_SHARE, 0.5):
        found = sum(value < share for value in shares) / len(shares)
        assert abs(found - share) < 4 * (share * (1 - share) / len(shares)) ** 0.5
