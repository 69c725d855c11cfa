"""Claims: estimators on tables with a known truth, intervals by brute force, the rule, and the real command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.claims.check_claims import ESTIMATORS, Checked, check_claims
from srt.claims.verdict import (
    CHANCE,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Number,
    Verdict,
    adjusted,
    decide,
    judge,
    p_value,
)
from srt.claims.verdict_tables import FALSE_DISCOVERIES, to_frame, to_html, to_markdown
from srt.common.errors import SrtError
from srt.common.io import write_parquet
from srt.config.base import literals
from srt.config.claims import FROM_TRAINING, OPTIONS, Claim
from srt.metrics.intervals import crossed, mean_interval, t_quantile
from support import ROOT, warm
from support.claims_tables import Tables, curve, values


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


# -- the rule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lo", "hi", "expect", "verdict"),
    [
        (0.01, 0.2, {"above": 0}, SUPPORTED),
        (-0.2, -0.01, {"above": 0}, REFUTED),
        (0.0, 0.0, {"above": 0}, REFUTED),  # an effect of exactly 0 is not above 0
        (-0.1, 0.1, {"above": 0}, UNDECIDED),
        (0.0, 0.1, {"above": 0}, UNDECIDED),
        (-0.2, -0.01, {"below": 0}, SUPPORTED),
        (0.0, 0.1, {"below": 0}, REFUTED),
        (-0.03, 0.03, {"within": [-0.03, 0.03]}, SUPPORTED),
        (-0.04, 0.03, {"within": [-0.03, 0.03]}, UNDECIDED),
        (0.031, 0.09, {"within": [-0.03, 0.03]}, REFUTED),
        (-0.5, 0.5, {"within": [-0.03, 0.03]}, UNDECIDED),  # no evidence of a difference is not evidence of equivalence
        (float("inf"), float("inf"), {"within": [0, 100]}, REFUTED),
    ],
)
def test_rule(lo: float, hi: float, expect: dict[str, Any], verdict: str) -> None:
    assert judge(lo, hi, expect) == verdict


@settings(deadline=None, derandomize=True)
@given(st.floats(-2, 2), st.floats(0, 1), st.floats(-1, 1), st.floats(0.001, 1))
def test_rule_never_says_both_and_mirrors(lo: float, width: float, at: float, margin: float) -> None:
    hi = lo + width
    above, below = judge(lo, hi, {"above": at}), judge(lo, hi, {"below": at})
    assert not above == below == SUPPORTED and above == judge(-hi, -lo, {"below": -at})
    if SUPPORTED in (above, below):
        assert REFUTED in (above, below)
    inside = judge(lo, hi, {"within": [at - margin, at + margin]})
    narrower = judge(lo + width / 4, hi - width / 4, {"within": [at - margin, at + margin]})
    assert inside == UNDECIDED or narrower == inside  # a narrower interval inside the first never reverses a verdict


def number(lo: float, hi: float, seeds: int = 3) -> Number:
    return Number("x", (lo + hi) / 2, lo, hi, 10, seeds)


def test_a_claim_needs_all_its_numbers_and_one_refutes_it() -> None:
    yes, no, unclear = number(0.1, 0.2), number(-0.2, -0.1), number(-0.1, 0.1)
    for given_, verdict in [((yes, yes), SUPPORTED), ((yes, unclear), UNDECIDED), ((unclear, no, yes), REFUTED)]:
        assert decide(given_, {"above": 0}, 1).verdict == verdict
    assert decide((), {"above": 0}, 1).verdict == UNDECIDED


def test_too_few_seeds_or_no_interval_decide_nothing() -> None:
    few = decide([number(0.1, 0.2, seeds=1)], {"above": 0}, 0.2, min_seeds=3)
    assert few.verdict == UNDECIDED and "from 1 seed, and the claim needs 3" in few.reason
    assert decide([Number("x", 1, float("nan"), 2, 1, 1)], {"above": 0}, 9).verdict == UNDECIDED


def test_an_interval_of_no_width_decides_nothing() -> None:
    for value, expect in [(0.0, {"above": 0}), (0.5, {"above": 0}), (0.0, {"within": [-1, 1]})]:
        nothing = decide([number(value, value)], expect, 1)
        assert nothing.verdict == UNDECIDED and "no width: nothing varies" in nothing.reason


def test_the_width_matters_only_to_what_is_undecided() -> None:
    assert decide([number(0.1, 40)], {"above": 0}, 0.2).verdict == SUPPORTED
    assert decide([number(-40, -0.1)], {"above": 0}, 0.2).verdict == REFUTED
    wide, near = (decide([number(-0.1, hi)], {"above": 0}, 0.2) for hi in (0.4, 0.05))
    assert wide.verdict == near.verdict == UNDECIDED
    assert "wider than 0.2" in wide.reason and "clear of it" in near.reason


def test_the_p_value_agrees_with_the_interval() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        source = crossed({"t": generator.normal(0.01, 0.05, (3, 20))})
        found = Number("x", source.value, *source.interval(), 20, 3, source=source)
        for expect in ({"above": 0}, {"below": 0.03}, {"within": [-0.05, 0.05]}):
            assert (p_value([found], expect) <= CHANCE) == (judge(found.lo, found.hi, expect) == SUPPORTED)
    strong, weak = (crossed({"t": mean + generator.normal(0, 0.05, (3, 20))}) for mean in (0.5, 0.05))
    pair = [Number("x", each.value, *each.interval(), 20, 3, source=each) for each in (strong, weak)]
    assert p_value(pair, {"above": 0}) == p_value(pair[1:], {"above": 0}) > p_value(pair[:1], {"above": 0})
    # a t test by hand: one seed, 20 problems
    values = generator.normal(0.01, 0.05, 20)
    t = values.mean() / values.std(ddof=1) * math.sqrt(20)
    one = crossed({"t": values[None]})
    p = p_value([Number("x", one.value, *one.interval(), 20, 1, source=one)], {"above": 0})
    assert t_quantile(1 - 2 * p, 19) <= t < t_quantile(1 - 2 * p / 10 ** (1 / 16), 19)


# -- intervals by brute force ------------------------------------------------------------------------------------------


def test_the_correction_takes_back_what_many_claims_support_by_chance() -> None:
    claim = {"version": "v1", "where": "w", "statement": "s", "expect": {"above": 0}, "max_width": 1}
    checked = [
        Checked(f"c{i}", claim, Verdict(SUPPORTED if p <= CHANCE else UNDECIDED, "r", (), p))
        for i, p in enumerate([1e-6, 0.02, *[0.3] * 18])
    ]
    text = to_markdown(checked)
    assert "at most 0.5 would be supported by chance. 1 of the 2 supported ones remain" in text
    assert text.count("**supported**") == 1 and text.count("**supported (not after correction)**") == 1
    assert "supported (not after correction)" in to_html(checked, "Claims")
    generator = np.random.default_rng(0)
    for _ in range(50):  # by the definition: the largest k with p_(k) <= k q / m
        p = generator.random(12) ** 3
        order = np.sort(p)
        passing = [k for k in range(1, 13) if order[k - 1] <= k * FALSE_DISCOVERIES / 12]
        assert sum(q <= FALSE_DISCOVERIES for q in adjusted(list(p))) == (passing[-1] if passing else 0)


def by_hand(sets: dict[str, tuple[list[np.ndarray], list[np.ndarray]]], paired: bool) -> tuple[float, float, float]:
    """Mean difference of two runs and its interval, index by index: sets {name: ([seeds][P], [seeds][P])}."""
    one, two = ([np.mean([sets[d][side][s].mean() for d in sets]) for s in range(len(sets["a"][side]))]
                for side in (0, 1))  # fmt: skip
    estimate = np.mean(one) - np.mean(two)
    groups_ = [np.array(one) - np.array(two)] if paired else [np.array(one), np.array(two)]
    half = sum(t_quantile(0.95, len(g) - 1) ** 2 * g.var(ddof=1) / len(g) for g in groups_)
    rest = 0.0
    for first, second in sets.values():
        size = len(first[0])
        sides = [[a - b for a, b in zip(first, second, strict=True)]] if paired else [first, second]
        effect = [np.mean([s[p] for s in first]) - np.mean([s[p] for s in second]) for p in range(size)]
        variance = np.var(effect, ddof=1) / size
        for side in sides:
            whole = np.mean(side)
            squares = [
                (side[s][p] - side[s].mean() - np.mean([x[p] for x in side]) + whole) ** 2
                for s in range(len(side))
                for p in range(size)
            ]
            variance -= sum(squares) / ((len(side) - 1) * (size - 1)) / (len(side) * size)
        rest += t_quantile(0.95, size - 1) ** 2 * variance / len(sets) ** 2
    half = math.sqrt(half + max(rest, 0))
    return estimate, estimate - half, estimate + half


def two_sets(seeds: int, seed: int) -> dict[str, list[list[np.ndarray]]]:
    generator = np.random.default_rng(seed)
    sizes = {"a": 30, "b": 17}
    return {d: [[generator.random(n) for _ in range(5)] for _ in range(seeds)] for d, n in sizes.items()}


@pytest.mark.parametrize("seeds", [2, 3])
def test_differences_are_paired_by_problem_and_by_the_same_seeds(tables: Tables, seeds: int) -> None:
    one, two = two_sets(3, 1), two_sets(seeds, 2)
    tables.run("one", one, seeds=3)
    tables.run("two", two, seeds=seeds)
    (got,) = tables.numbers("difference", run="one", against="two", datasets=["a", "b"], at=200)
    cells = {d: ([seed[2] for seed in one[d]], [seed[2] for seed in two[d]]) for d in one}
    assert (got.estimate, got.lo, got.hi) == pytest.approx(by_hand(cells, paired=seeds == 3), abs=1e-12)
    assert got.problems == 47 and got.seeds == seeds and got.samples == "32"


def test_the_interval_of_a_level_is_the_figures_band(tables: Tables) -> None:
    data = two_sets(3, 3)
    tables.run("one", data, seeds=3)
    (got,) = tables.numbers("level", run="one", datasets=["a", "b"], at=300)
    assert (got.estimate, got.lo, got.hi) == pytest.approx(
        mean_interval([np.array([seed[3] for seed in data[d]]) for d in ("a", "b")]), abs=1e-12
    )


def test_the_base_model_counts_once(tables: Tables) -> None:
    start = np.random.default_rng(0).random(30)
    tables.run("r", {"t": [[start, *(np.random.default_rng(s).random((4, 30)))] for s in range(3)]}, seeds=3)
    (got,) = tables.numbers("level", run="r", datasets=["t"], at="base")
    assert got.seeds == 1 and (got.lo, got.hi) == pytest.approx(mean_interval([start[None]])[1:])


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_peak_is_chosen_on_other_problems_and_seeds(tables: Tables, seeds: int) -> None:
    data = two_sets(seeds, 4)
    tables.run("one", data, seeds=seeds)
    (got,) = tables.numbers("change", run="one", datasets=["a", "b"], at="peak")
    expected = []
    for d in data:
        for s in range(seeds):
            others = [o for o in range(seeds) if o % 2 != s % 2] if seeds > 1 else [0]
            for p in range(len(data[d][s][0])):
                means = [np.mean([np.mean([data[e][o][t][1 - p % 2 :: 2].mean() for o in others]) for e in data])
                         for t in (1, 2, 3, 4)]  # fmt: skip
                gain = data[d][s][1 + int(np.argmax(means))][p] - data[d][-1][0][p]  # one start
                expected.append(gain / len(data[d][s][0]) / seeds / 2)
    assert got.estimate == pytest.approx(sum(expected), abs=1e-12)


def test_a_rising_run_does_not_fall_from_its_peak(tables: Tables) -> None:
    tables.run("r", {"t": curve(0.3, 0.4, 0.5, 0.6, 0.7, noise=0.01)})
    (got,) = tables.numbers("change", run="r", datasets=["t"], since="peak")
    assert got.estimate == pytest.approx(0.1, abs=0.01)  # since the best step before the last


# -- inconsistent tables -----------------------------------------------------------------------------------------------


def test_models_with_different_problems_are_compared_on_what_they_share(tables: Tables) -> None:
    tables.run("one", {"t": [np.arange(10) / 10] * 5})
    tables.run("two", {"t": [np.arange(8) / 10] * 5})
    (got,) = tables.numbers("difference", run="one", against="two", datasets=["t"])
    assert (got.estimate, got.lo, got.hi, got.problems) == (0, 0, 0, 8)


def test_one_run_on_two_versions_of_the_data_is_refused(tables: Tables) -> None:
    tables.run("r", {"t": [values(0.5)] * 4 + [values(0.5, size=50)]})
    with pytest.raises(SrtError, match="evaluated on different problems of 't'"):
        tables.numbers("level", run="r", datasets=["t"])


def test_a_step_after_the_end_is_undecided(tables: Tables) -> None:
    tables.run("r", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5)})
    claim = {"statement": "s", "version": "v1", "where": "w", "estimator": "level", "expect": {"above": 0},
             "max_width": 1, "options": {"run": "r", "datasets": ["t"], "at": 900}}  # fmt: skip
    entry = Claim.model_validate(claim).model_dump(mode="json", exclude_none=True)
    (checked,) = check_claims(tables.spec(c=entry))
    assert (checked.verdict.verdict, checked.verdict.reason) == (UNDECIDED, "Run r stops at step 400, before step 900.")


def test_missing_tables_are_an_error_or_undecided(tables: Tables) -> None:
    tables.run("r", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5)})
    (tables.folder / "eval/r-s1/step-400/tests.groups.parquet").unlink()
    claim = {"statement": "s", "version": "v1", "where": "w", "estimator": "change", "expect": {"above": 0},
             "max_width": 1, "options": {"run": "r", "datasets": ["t"]}}  # fmt: skip
    spec = tables.spec(c=Claim.model_validate(claim).model_dump(mode="json", exclude_none=True))
    with pytest.raises(SrtError, match="does not exist: run the rule"):
        check_claims(spec)
    (checked,) = check_claims(spec, partial=True)
    assert checked.verdict.verdict == UNDECIDED and "is not made yet" in checked.verdict.reason


# -- the whole ---------------------------------------------------------------------------------------------------------


def claims_of(tables: Tables) -> dict[str, Any]:
    tables.run("up", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5, noise=0.02)})
    common = {"version": "v1", "where": "§1 | <b>", "expect": {"above": 0}, "max_width": 0.5}
    raw = {
        "rises": {**common, "statement": "It rises.", "estimator": "change",
                  "options": {"run": "up", "datasets": ["t"]}},
        "falls": {**common, "statement": "It falls & <i>stays</i>.", "estimator": "change",
                  "options": {"run": "up", "datasets": ["t"], "since": "last", "at": "base"}},
        "unseen": {"statement": "It is gibberish.", "version": "v2", "where": "Table 1", "untested": "nobody reads it"},
    }  # fmt: skip
    entries = {k: Claim.model_validate(v).model_dump(mode="json", exclude_none=True) for k, v in raw.items()}
    return tables.spec(**entries)


def test_tables_of_verdicts(tables: Tables) -> None:
    checked = check_claims(claims_of(tables))
    assert [c.verdict.verdict for c in checked] == [SUPPORTED, REFUTED, UNDECIDED]
    frame = to_frame(checked)
    assert frame["claim"].tolist() == ["rises", "falls", "unseen"] and frame["seeds"].tolist()[:2] == [1, 1]
    assert frame.loc[2, "reason"] == "Not tested: Nobody reads it."
    assert frame["samples"].tolist()[:2] == ["32", "32"]
    assert frame["p"].iloc[0] < frame["p_adjusted"].iloc[0] < 1e-5 and frame["p"].iloc[1] > 0.4
    text = to_markdown(checked)
    assert "none of the 2 measured claims were true, at most 0.1 would" in text and "1 of the 1 supported" in text
    assert "(1 seed, 60 problems, 32 samples)" in text
    assert "3 claims: 1 supported, 1 not supported, 1 undecided." in text and "One seed" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3 and all(row.replace("\\|", "").count("|") == 7 for row in rows)
    page = to_html(checked, "Claims")
    assert "It falls &amp; &lt;i&gt;stays&lt;/i&gt;." in page and "http" not in page


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_twice(tables: Tables, tmp_path: Path) -> None:
    spec = json.dumps(claims_of(tables))
    made = []
    for name in ("a", "b"):
        prefix = tmp_path / name / "claims"
        done = warm.run([str(ROOT / "scripts/claims.py"), "--spec", spec, "--out-prefix", str(prefix)])
        assert done.returncode == 0, done.stderr
        assert done.stdout == "3 claims: 1 supported, 1 not supported, 1 undecided\n"
        made.append([prefix.with_suffix(suffix).read_bytes() for suffix in (".csv", ".md", ".html")])
    assert made[0] == made[1]


def test_every_estimator_has_options_and_a_function() -> None:
    assert set(ESTIMATORS) == set(OPTIONS) and set(OPTIONS) >= FROM_TRAINING
    documented = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in ESTIMATORS)
    assert set(literals(Claim.model_fields["estimator"].annotation)) == set(OPTIONS)


@pytest.mark.parametrize(
    ("trained_on", "verdict", "told"),
    [
        ({"other": True}, SUPPORTED, "Without them as well: 2 of 60 questions of t are in other."),
        (
            {"most": False},
            UNDECIDED,
            "Supported only with questions that were trained on (30 of 60 questions of t are in most)",
        ),
        ({"t": False}, SUPPORTED, ""),  # test-time training
        ({"variants": True}, SUPPORTED, ""),  # the same sentence with other numbers
        (
            {"t": True},
            UNDECIDED,
            "(60 of 60 questions of t are in t). Without them: Every question of t was trained on.",
        ),
    ],
)
def test_a_supported_claim_holds_without_questions_that_were_trained_on(
    tables: Tables, trained_on: dict[str, bool], verdict: str, told: str
) -> None:
    spec = claims_of(tables)
    ids = [f"t-{i}" for i in range(60)]
    start, end = (
        pd.read_parquet(tables.folder / f"eval/{name}/tests.groups.parquet")["pass_rate"].to_numpy()
        for name in ("base/up", "up-s1/step-400")
    )
    end = end.copy()
    gained = set(np.argsort(start - end)[:30])  # without these there is no clear gain
    for place in range(60):
        if place not in gained:
            end[place] = start[place]
    frame = pd.read_parquet(tables.folder / "eval/up-s1/step-400/tests.groups.parquet").assign(pass_rate=end)
    write_parquet(tables.folder / "eval/up-s1/step-400/tests.groups.parquet", frame)
    dirty = {"other": {0, 1}, "most": gained, "t": set(range(60)), "variants": set(range(60))}
    kinds = {"other": ("near", True), "most": ("exact", False), "variants": ("near", False)}
    pairs = [(train, "t", ids[i], *kind) for train, kind in kinds.items() for i in sorted(dirty[train])]
    columns = ["train", "test", "test_id", "kind", "same_numbers"]
    write_parquet(tables.folder / "pairs.parquet", pd.DataFrame(pairs, columns=columns))
    rows = [(train, "t", ids[i], i not in places) for train, places in dirty.items() for i in range(60)]
    clean = tables.folder / "clean_rows.parquet"
    write_parquet(clean, pd.DataFrame(rows, columns=["train", "test", "problem_id", "clean"]))
    spec["runs"]["up"]["trained_on"] = trained_on
    assert check_claims(spec)[0].verdict.verdict == SUPPORTED, "without an audit nothing is left out"
    found = check_claims({**spec, "clean": str(clean)})
    assert found[0].verdict.verdict == verdict and told in found[0].verdict.reason
    assert found[1].verdict.verdict == REFUTED and found[2].verdict.verdict == UNDECIDED
    with pytest.raises(SrtError, match="the audit has not compared 'new' with 't'"):
        spec["runs"]["up"]["trained_on"] = {"new": True}
        check_claims({**spec, "clean": str(clean)})
    assert check_claims({**spec, "clean": "none"}, partial=True)[0].verdict.verdict == SUPPORTED
