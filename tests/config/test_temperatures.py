"""Suites with their own temperature: what is sampled for them, what reads them; a run with refilled batches."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from srt.artefacts.evaluations import evaluations
from srt.artefacts.specs import sample_spec
from srt.claims.resolve import resolve_claims
from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet, write_parquet
from srt.figures.resolve import resolve_figure
from srt.plan.jobs import build
from support.claims_tables import STEPS, P, Tables, groups, values
from support.config_files import change, load, specs, write
from support.dag import MICRO, jobs, snakemake

MAIN, RUNS, FIGURES = "main.yaml", "runs.yaml", "figures.yaml"
COLD = "other: {datasets: [more_test], temperature: 0.0}\n  warm: {datasets: [more_test], temperature: 0.5}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two suites of `more_test` at other temperatures, under `probe` of both runs."""
    write(tmp_path)
    change(tmp_path, MAIN, "other: [far_test]", COLD)
    change(tmp_path, RUNS, "suites: [tests]", "suites: [tests]\n  probe: {suites: [other, warm], step: 6}")
    change(
        tmp_path, RUNS, "suites: [tests, far_test]", "suites: [tests, far_test]\n  probe: {suites: [other], step: 6}"
    )
    return tmp_path


# -- configuration ----------------------------------------------------------------------------------------------------


def test_a_suite_wins_over_the_model_and_greedy_is_one_response(folder: Path) -> None:
    change(folder, "models.yaml", "repo: Qwen", "sampling: {temperature: 0.7, top_p: 0.9}\n  repo: Qwen")
    config = load(folder)
    assert config.members("other") == ["more_test"] and config.suites["tests"].own_sampling == {}
    for suite, temperature, n in (("tests", 0.7, 8), ("sums_test", 0.7, 8), ("other", 0.0, 1), ("warm", 0.5, 8)):
        sampling = config.sampling_settings("hub7b", suite)
        assert (sampling.temperature, sampling.n, sampling.top_p) == (temperature, n, 0.9)
        assert json.loads(sample_spec(config, "hub7b", suite))["temperature"] == temperature
    change(folder, MAIN, "temperature: 0.0}", "temperature: 0.0, n: 3}")
    assert load(folder).sampling_settings("tiny", "other").n == 3


def test_what_a_temperature_changes_is_its_suite_alone(folder: Path) -> None:
    before = load(folder)
    change(folder, MAIN, "temperature: 0.5", "temperature: 0.25")
    after = load(folder)
    assert specs(before) == specs(after)
    suites = ["tests", "other", "warm", *before.datasets]
    changed = {s for s in suites if sample_spec(before, "tiny", s) != sample_spec(after, "tiny", s)}
    assert changed == {"warm"}


def test_a_list_and_its_long_form_are_one(tmp_path: Path) -> None:
    write(tmp_path)
    before = load(tmp_path)
    change(tmp_path, MAIN, "other: [far_test]", "other: {datasets: [far_test]}")
    assert load(tmp_path) == before and sample_spec(before, "tiny", "other") == sample_spec(before, "tiny")


def test_two_ways_to_sample_a_data_set_are_not_mixed_in_one_table(folder: Path) -> None:
    change(folder, RUNS, "suites: [tests]\n  probe: {suites: [other, warm], step: 6}", "suites: [tests, warm]")
    with pytest.raises(SrtError, match=r"gt: suites: 'warm' samples data sets of 'tests' differently.*under probe"):
        load(folder)


FIGURE = (
    "fig4:\n  kind: bars\n  title: T\n  datasets: [more_test]\n  panels:\n"
    "    - {title: Greedy, runs: [gt, srt], suite: other}\n    - {title: Usual, runs: [gt, srt], suite: tests}\n"
    "  options: {step: 6}\nfig9:\n"
)


def test_a_figure_and_a_claim_ask_for_start_and_one_checkpoint_alone(folder: Path) -> None:
    change(folder, FIGURES, "fig9:\n", FIGURE)
    change(folder, MAIN, "figures: figures.yaml", "figures: figures.yaml\n  claims: claims.yaml")
    (folder / "claims.yaml").write_text(
        "gains:\n  statement: It gains.\n  version: ours\n  where: here\n  estimator: suite_gain\n"
        "  options: {run: gt, datasets: [more_test], suites: [warm, tests], at: 6}\n"
        "  expect: {above: 0}\n  max_width: 1\n"
    )
    config = load(folder)
    wanted = {
        f"results/test/eval/{checkpoint}/{suite}.groups.parquet"
        for checkpoint in ("base/tiny", "gt-s1/step-6", "srt-s1/step-6", "srt-s2/step-6")
        for suite in ("other", "tests")
    }
    assert set(resolve_figure(config, "fig4")[1]) == wanted
    ends = {
        f"results/test/eval/{c}/{s}.groups.parquet" for c in ("base/tiny", "gt-s1/step-6") for s in ("warm", "tests")
    }
    assert set(resolve_claims(config)[1]) == ends
    # no other table contains them, and the plan has them once
    assert not any("other" in file or "warm" in file for row in evaluations(config) for file in row["groups"])
    sampled = {job.name for job in build(config).jobs.values() if job.rule == "sample"}
    assert {name for name in sampled if name.endswith(("other", "warm"))} == {
        "base/tiny/other", "gt-s1/step-6/other", "srt-s1/step-6/other", "srt-s2/step-6/other", "base/tiny/warm",
        "gt-s1/step-6/warm",
    }  # fmt: skip
    change(folder, FIGURES, "options: {step: 6}", "options: {step: 12}")
    with pytest.raises(SrtError, match=r"fig4: .*sampled on suite 'other' at step 6, not 12: set step to 6"):
        load(folder)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_gain_on_each_suite(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    little = 1e-3 * (np.arange(P) % 3 - 1)
    tables.run("a", {"x": [values(m) + little * place for place, m in enumerate((0.3, 0.4, 0.5, 0.6, 0.25))]})
    for checkpoint, mean in (("base/a", 0.3), ("a-s1/step-300", 0.4)):
        part = groups("x", values(mean, seed=1) + little * (mean > 0.3))
        write_parquet(tmp_path / f"eval/{checkpoint}/cold.groups.parquet", part.assign(n=1))
    usual, cold = tables.numbers("suite_gain", run="a", datasets=["x"], suites=["tests", "cold"], at=300)
    assert STEPS[2] == 300 and usual.estimate == pytest.approx(0.3, abs=1e-3) and cold.estimate == pytest.approx(0.1)
    assert usual.name == "gain of avg@32 of a to step 300, tests" and "avg@1 of a to step 300, cold" in cold.name
    assert usual.hi - usual.lo < 0.01  # nearly every problem gains the same amount, so the paired interval is narrow
    (last,) = tables.numbers("suite_gain", run="a", datasets=["x"], suites=["tests"])
    assert last.estimate == pytest.approx(-0.05, abs=1e-3)
    options = {"run": "a", "datasets": ["x"], "suites": ["tests", "cold"], "at": 300}
    assert tables.verdict("suite_gain", {"above": 0.05}, **options) == "supported"
    assert tables.verdict("suite_gain", {"above": 0.2}, **options) == "not supported"  # one suite is enough


# -- the workflow -----------------------------------------------------------------------------------------------------

ENTRIES = """
refilled:
  extends: gt
  label: Online curriculum
  method: threshold
  reward: majority
  refill: {majority: 0.25, rounds: 2}
  steps: 2
  segment: 2
  probe: {suites: [cold, warm], step: 2}
"""
BARS = """
fig16:
  kind: bars
  title: Temperatures
  datasets: [sums_test]
  panels:
    - {title: Greedy, runs: [refilled], suite: cold}
    - {title: Warm, runs: [refilled], suite: warm}
    - {title: Usual, runs: [refilled], suite: tests}
  options: {step: 2}
"""


@pytest.fixture(scope="module")
def probed(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro DAG after its run, with a refilled run, two temperatures and their figure added and made."""
    folder = tmp_path_factory.mktemp("probed") / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    change(folder, "tests/micro/config.yaml", "  tests: [sums_test]\n",
           "  tests: [sums_test]\n  cold: {datasets: [sums_test], temperature: 0}\n"
           "  warm: {datasets: [sums_test], temperature: 0.5}\n")  # fmt: skip
    for name, text in (("experiments", ENTRIES), ("figures", BARS)):
        with open(folder / f"tests/micro/{name}.yaml", "a", encoding="utf-8") as handle:
            handle.write(text)
    (folder / "workflow/report/fig16.rst").write_text("Temperatures.\n")
    planned = jobs(snakemake(folder, *MICRO, "-n", "fig16"))
    assert planned["sample"] == planned["score"] == 5  # two temperatures for two checkpoints, the usual one for the new
    assert planned["train_last"] == 1 and not {"data", "base_model", "train"} & set(planned)
    snakemake(folder, *MICRO, "fig16", "refilled_s1")
    return folder


@pytest.mark.long
def test_a_new_temperature_samples_its_suite_and_nothing_else(probed: Path, tmp_path: Path) -> None:
    assert "Nothing to be done" in snakemake(probed, *MICRO, "-n", "fig16", "refilled_s1")
    folder = tmp_path / "changed"
    shutil.copytree(probed, folder, symlinks=True)
    change(folder, "tests/micro/config.yaml", "temperature: 0.5", "temperature: 0.6")
    output = snakemake(folder, *MICRO, "-n", "fig16", "refilled_s1")
    assert jobs(output) == {"sample": 2, "score": 2, "fig16": 1, "total": 5}
    names = set(re.findall(r"Sample (?:base/micro|refilled-s1/step-2) on (\S+)", output))
    assert len(names) == 1 and re.fullmatch(r"warm@[0-9a-f]{8}", names.pop())
    assert "micro on warm: temperature=0.5, now 0.6" in output and "new ones are made beside them" in output


@pytest.mark.long
def test_the_samples_are_of_their_temperature(probed: Path) -> None:
    folder = probed / "results/micro/eval/base/micro"
    cold, warm, usual = (read_parquet(folder / f"{s}.samples.parquet").to_pandas() for s in ("cold", "warm", "tests"))
    assert (len(cold), len(warm), len(usual)) == (12, 96, 96)
    assert parquet_metadata(folder / "warm.samples.parquet")["spec"]["temperature"] == 0.5
    mean = [np.concatenate(part["logprobs"].to_list()).mean() for part in (warm, usual)]
    assert mean[0] > mean[1] + 0.1  # log-probs are those of the distribution that was sampled from
    table = pd.read_csv(probed / "results/micro/figures/fig16.csv")
    bars = table[table["quantity"] != "gain"]
    assert bars["panel"].unique().tolist() == ["Greedy (T = 0)", "Warm (T = 0.5)", "Usual (T = 1)"]
    assert set(table["step"]) == {0, 2}
    assert bars["quantity"].unique().tolist() == ["avg@1", "avg@8"]
    groups_ = read_parquet(folder / "cold.groups.parquet").to_pandas()
    shown = bars[(bars["panel"] == "Greedy (T = 0)") & (bars["method"] == "base")]["value"].iloc[0]
    assert shown == pytest.approx(groups_["pass_rate"].mean())


def test_a_refilled_run_goes_through_the_workflow(probed: Path) -> None:
    table = read_parquet(probed / "results/micro/runs/refilled-s1/metrics.parquet").to_pandas()
    assert table["step"].tolist() == [1, 2] and table["prompts_drawn"].between(4, 8).all()
    assert np.array_equal(np.sort(table["data_place"]), table["data_place"]) and table["data_place"].iloc[0] >= 4
    others = read_parquet(probed / "results/micro/runs/gt-s1/metrics.parquet").column_names
    assert "data_place" not in others
