"""Power of claims: against repeated experiments, and what the shipped configurations can decide."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from srt.claims.power import Assumed, margins_to_markdown, powers, summary, to_markdown
from srt.claims.training_estimators import exact_interval
from srt.claims.verdict import SUPPORTED, judge
from srt.cli.__main__ import dispatch
from srt.common.errors import SrtError
from srt.config import Config, load_config, read_yaml
from srt.metrics.intervals import crossed
from support import ROOT


@pytest.fixture(scope="module")
def full() -> Config:
    return load_config(read_yaml(ROOT / "config/config.yaml"), ROOT, "config/config.yaml")


def test_power_is_how_often_a_true_match_is_supported(full: Config) -> None:
    found = {each.claim: each for each in powers(full)}["early_tracks_dapo"]
    generator = np.random.default_rng(7)
    sizes, runs = (30, 30, 40), 400
    seeds = 0.01 * np.sqrt(2) * generator.standard_normal((runs, 3, 1))
    noise = np.sqrt(2 * 0.15 / 32)
    cells = {
        str(size_): seeds
        + 0.1 * generator.standard_normal((runs, 1, size))
        + noise * generator.standard_normal((runs, 3, size))
        for size_, size in enumerate(sizes)
    }
    lo, hi = crossed(cells).interval()
    supported = np.mean([judge(a, b, {"within": [-0.08, 0.08]}) == SUPPORTED for a, b in zip(lo, hi, strict=True)])
    assert (found.seeds, found.problems) == (3, 100) and found.power == pytest.approx(supported, abs=0.06)
    assert found.needs == pytest.approx(np.quantile(np.maximum(-lo, hi), 0.8), rel=0.1)


def test_all_numbers_of_a_claim_have_to_support_it(full: Config) -> None:
    """On each of four test sets: as often as four independent simulations are inside at once."""
    found = {each.claim: each for each in powers(full)}["matches_each_math12k"]
    generator, runs = np.random.default_rng(9), 400
    inside = np.ones(runs, dtype=bool)
    for size in (30, 30, 40, 500):
        cells = (
            0.01 * np.sqrt(2) * generator.standard_normal((runs, 3, 1))
            + 0.1 * generator.standard_normal((runs, 1, size))
            + np.sqrt(2 * 0.15 / 32) * generator.standard_normal((runs, 3, size))
        )
        lo, hi = crossed({"t": cells}).interval()
        inside &= (lo >= -0.12) & (hi <= 0.12)
    assert found.power == pytest.approx(inside.mean(), abs=0.06) and found.problems == 30


def test_the_needed_effect_is_seen_in_four_of_five_cases(full: Config) -> None:
    found = {each.claim: each for each in powers(full)}["ground_truth_goes_on_dapo"]
    generator = np.random.default_rng(8)
    runs, noise = 1000, np.sqrt(2 * 0.15 / 32)
    seeds = 0.01 * np.sqrt(2) * generator.standard_normal((runs, 3, 1))
    cells = {
        str(place): found.needs + seeds + 0.1 * generator.standard_normal((runs, 1, size))
        + noise * generator.standard_normal((runs, 3, size))
        for place, size in enumerate((30, 30, 40))
    }  # fmt: skip
    assert np.mean(crossed(cells).interval()[0] > 0) == pytest.approx(0.8, abs=0.05)


def test_more_seeds_and_less_spread_decide_more(full: Config) -> None:
    few, many = (
        {
            each.claim: each
            for each in powers(load_config(read_yaml(ROOT / "config/config.yaml") | {"seeds": n}, ROOT, "c"))
        }
        for n in (3, 7)
    )
    name = "early_tracks_dapo"
    assert many[name].needs < 0.7 * few[name].needs
    assert {each.claim: each for each in powers(full, Assumed(seed=0.05))}[name].verdict == "cannot be decided"
    silent = few["alarm_silent"]
    ends = [exact_interval(k, silent.seeds) for k in range(silent.seeds + 1)]
    assert ends[0][1] < 0.25 and silent.verdict == "can be decided"


def test_what_cannot_be_decided_is_named_in_the_documents(full: Config) -> None:
    found = powers(full)
    assert len(found) == sum(claim.estimator is not None for claim in full.claims.values())
    named = [each.claim for each in found if each.verdict == "cannot be decided"]
    assert summary(found).startswith(f"{len(named)} of {len(found)} claims cannot be decided")
    text = (ROOT / "docs/claims.md").read_text(encoding="utf-8").partition("Undecidable with three seeds are:")[2]
    assert re.findall(r"^\| `(\w+)` ", text.partition("## Estimators")[0], re.MULTILINE) == named
    assert all(f"`{each.claim}`" in to_markdown(found) for each in found)
    assert margins_to_markdown(found) in (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    assert not [each.claim for each in found if each.power is not None and 0.5 <= each.power < 0.8]


def test_the_command_prints_it_and_wrong_numbers_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    dispatch(["power", "--configfile", str(Path("config/mini.yaml")), "--problem-sd", "0.2"])
    said = capsys.readouterr().out
    assert "| `tracks_ground_truth` | within [-0.05, 0.05] | 3 | 168 |" in said and "claims cannot be decided" in said
    for wrong in (["--seeds", "0"], ["--seed-sd", "-1"]):
        with pytest.raises(SrtError, match="must"):
            dispatch(["power", *wrong])
