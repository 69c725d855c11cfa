"""Claims in a configuration: mistakes, what claims read, the rule and the report that show them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from srt.claims.resolve import resolve_claims
from srt.claims.verdict import SUPPORTED, UNDECIDED
from srt.common.errors import SrtError
from srt.common.io import canonical_json
from srt.config import load_config, read_yaml
from srt.report.first_page import verdict_summary
from support import ROOT
from support.config_files import change, write

CLAIMS = """\
rises:
  statement: It rises.
  version: v1
  where: "Fig. 2"
  estimator: change
  options: {run: srt, datasets: [sums_test]}
  expect: {above: 0}
  max_width: 0.2
reward:
  statement: The reward rises.
  version: v2
  where: "Fig. 3"
  estimator: training
  options: {run: gt, quantity: reward, since: 3, against: srt}
  expect: {within: [-0.1, 0.1]}
  max_width: 0.2
gibberish:
  statement: It is gibberish.
  version: v1
  where: "Table 1"
  untested: nobody reads it
"""
MISTAKES = {
    "run": ("run: srt,", "run: sr,", "rises: options: run: unknown run 'sr' (did you mean 'srt'?)"),
    "against": ("against: srt", "against: gtt", "reward: options: against: unknown run 'gtt' (did you mean 'gt'?)"),
    "dataset": ("[sums_test]", "[sum_test]", "rises: options: datasets: unknown data set 'sum_test' (did you mean"),
    "not evaluated": ("[sums_test]", "[sums]", "rises: options: datasets: run 'srt' is not evaluated on 'sums'"),
    "twice": ("[sums_test]", "[sums_test, sums_test]", "rises: options: datasets: data set 'sums_test' appears twice"),
    "estimator": ("estimator: change", "estimator: chnge", "rises: estimator: unknown value 'chnge' (did you"),
    "option": ("datasets: [sums_test]", "datasets: [sums_test], sinse: 6",
               "rises: options: estimator change has no option 'sinse' (did you mean 'since'?)"),
    "missing option": ("run: srt, ", "", "rises: options: run: is missing: add it"),
    "moment": ("datasets: [sums_test]", "datasets: [sums_test], at: top",
               "rises: options: at: unknown moment 'top' (known: base, peak, last, or a step)"),
    "no checkpoint": ("datasets: [sums_test]", "datasets: [sums_test], at: 5",
                      "rises: options: at: run 'srt' has no checkpoint at step 5: use a multiple of its"),
    "negative": ("datasets: [sums_test]", "datasets: [sums_test], at: -6", "rises: options: at: step -6 is negative"),
    "metric": ("datasets: [sums_test]", "datasets: [sums_test], metric: mean", "rises: options: metric: unknown value"),
    "quantity": ("quantity: reward", "quantity: rewrd", "reward: options: quantity: unknown value 'rewrd' (did"),
    "two rules": ("{above: 0}", "{above: 0, below: 1}", "rises: expect: needs one of above, below, within, not"),
    "no rule": ("{above: 0}", "{}", "rises: expect: needs one of above, below, within, not none"),
    "bounds": ("[-0.1, 0.1]", "[0.1, -0.1]", "reward: expect: within: 0.1 is not below -0.1: swap"),
    "no width": ("  max_width: 0.2\nreward", "reward", "rises: max_width is missing: add it"),
    "no estimator": ("  untested: nobody reads it\n", "", "gibberish: needs an estimator, or untested:"),
    "both": ("  untested: nobody reads it", "  untested: x\n  estimator: alarm_rate\n  options: {run: gt}",
             "gibberish: has an estimator and untested: keep one of them"),
    "version": ("version: v2", "version: v3", "reward: version: unknown value 'v3'"),
    "id": ("rises:", "Rises:", "id 'Rises' must be lower-case letters, digits and _ (it names files): write 'rises'"),
    "key": ("statement: It rises.", "statment: It rises.", "rises: unknown key 'statment' (did you mean 'statement'?)"),
}  # fmt: skip


def with_claims(folder: Path, text: str = CLAIMS) -> Path:
    main = write(folder)
    (folder / "claims.yaml").write_text(text, encoding="utf-8")
    change(folder, "main.yaml", "  figures: figures.yaml\n", "  figures: figures.yaml\n  claims: claims.yaml\n")
    return main


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path) -> None:
    main = with_claims(tmp_path)
    old, new, expected = MISTAKES[mistake]
    change(tmp_path, "claims.yaml", old, new)
    with pytest.raises(SrtError) as caught:
        load_config(read_yaml(main, "main.yaml"), tmp_path, "main.yaml", [main])
    sentence = str(caught.value)
    assert sentence.startswith(f"claims.yaml: {expected}"), sentence
    assert "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize(
    ("estimator", "options", "segment", "expected"),
    [
        # without `against_at`, the steps of the other run and of further runs are checked as well
        ("difference", "against: gt, at: 6", 12, "at: run 'gt' has no checkpoint at step 6: use a multiple"),
        ("difference", "against: gt, also: [gt], at: 6", 6, "also: run 'gt' appears twice: remove one"),
        ("difference", "against: other, also: [gt], at: 6", 12, "at: run 'gt' has no checkpoint at step 6"),
        ("difference", "against: gt, at: peak, until: 6", 12, "until: run 'gt' has no checkpoint at step 6"),
        ("difference", "against: gt, at: last, until: 6", 6, "until: neither run is read at its peak: set at to peak"),
        ("peak_step", "against_datasets: [sums]", 6, "datasets: run 'srt' is not evaluated on 'sums'"),
        ("peak_step", "against_datasets: [sums_test]", 6, "datasets: data set 'sums_test' appears twice: remove one"),
        ("peak_then_fall", "after: 5", 6, "after: run 'srt' has no checkpoint at step 5: use a multiple"),
        ("alarm_rate", "also: [gtt]", 6, "also: unknown run 'gtt' (did you mean 'gt'?)"),
        ("alarm_rate", "also: [gt, srt]", 6, "also: run 'srt' appears twice: remove one"),
    ],
)
def test_steps_and_runs_of_the_other_side(
    estimator: str, options: str, segment: int, expected: str, tmp_path: Path
) -> None:
    datasets = "" if estimator == "alarm_rate" else "datasets: [sums_test], "
    main = with_claims(tmp_path)
    change(tmp_path, "claims.yaml", "estimator: change", f"estimator: {estimator}")
    change(tmp_path, "claims.yaml", "{run: srt, datasets: [sums_test]}", f"{{run: srt, {datasets}{options}}}")
    other = "label: x, method: srt, model: tiny, data: sums, reward: majority, steps: 12, segment: 6, suites: [tests]"
    change(tmp_path, "runs.yaml", "segment: 6", f"segment: {segment}")  # of gt, the first
    change(tmp_path, "runs.yaml", "gt:\n", f"other: {{{other}}}\ngt:\n")
    with pytest.raises(SrtError) as caught:
        load_config(read_yaml(main, "main.yaml"), tmp_path, "main.yaml", [main])
    assert f"claims.yaml: rises: options: {expected}" in str(caught.value)


def test_the_alarm_is_judged_on_all_runs_on_true_answers() -> None:
    config = load_config(read_yaml(ROOT / "config/config.yaml"), ROOT, "config/config.yaml")
    options = config.claims["alarm_silent"].options
    named = [options["run"], *options["also"]]
    assert len(named) == len(set(named))
    assert set(named) == {name for name, run in config.runs.items() if run.reward == "ground_truth"}


def test_a_claim_reads_what_its_run_makes(tmp_path: Path) -> None:
    main = with_claims(tmp_path)
    config = load_config(read_yaml(main, "main.yaml"), tmp_path, "main.yaml", [main])
    spec, files = resolve_claims(config)
    assert spec["runs"]["srt"]["instances"] == ["srt-s1", "srt-s2"] and spec["runs"]["srt"]["steps"] == [6, 12]
    groups = {f"results/test/eval/{c}/tests.groups.parquet"
              for c in ("base/tiny", "srt-s1/step-6", "srt-s1/step-12", "srt-s2/step-6", "srt-s2/step-12")}  # fmt: skip
    metrics = {f"results/test/runs/{run}/metrics.parquet" for run in ("gt-s1", "srt-s1", "srt-s2")}
    assert set(files) == groups | metrics


@pytest.mark.parametrize("file", ["config/config.yaml", "config/smoke.yaml"])
def test_the_shipped_claims_fit_one_argument(file: str) -> None:
    config = load_config(read_yaml(ROOT / file), ROOT, file)
    spec, files = resolve_claims(config)
    assert len(config.claims) > 10 and files
    assert len(canonical_json(spec).encode()) < 128 * 1024 * 0.8
    assert {c.version for c in config.claims.values()} >= {"v1", "v2"}


def test_the_rule_makes_the_table(micro_run: Path, tmp_path: Path) -> None:
    """The real rule on the tables of a real run: claims are added, and nothing is trained again."""
    import shutil

    from support.dag import MICRO, jobs, snakemake

    folder = tmp_path / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    claims = """
claims:
  rises: {statement: It rises., version: ours, where: here, estimator: change,
          options: {run: gt, datasets: [sums_test]}, expect: {above: 0.9}, max_width: 1}
  later: {statement: Later., version: ours, where: here, estimator: level,
          options: {run: gt, datasets: [sums_test], at: 900}, expect: {above: 0}, max_width: 1}
"""
    path = folder / "tests/micro/config.yaml"
    path.write_text(path.read_text(encoding="utf-8") + claims, encoding="utf-8")
    planned = jobs(snakemake(folder, *MICRO, "-n"))
    # the provenance records the configuration, so it is written again
    assert planned == {"claims": 1, "provenance": 1, "all": 1, "total": 3}
    snakemake(folder, *MICRO, "claims")
    made = folder / "results/micro/claims"
    text = (made / "claims.md").read_text(encoding="utf-8")
    # the accuracy of so short a run does not move
    assert "2 claims: 0 supported, 0 not supported, 2 undecided." in text and "nothing varies" in text
    assert "before step 900" in text and (made / "claims.html").stat().st_size > 500
    first = (made / "claims.csv").read_bytes()
    snakemake(folder, *MICRO, "claims", "--forcerun", "claims")
    assert (made / "claims.csv").read_bytes() == first


def test_the_report_opens_with_the_verdicts(tmp_path: Path) -> None:
    from docutils.core import publish_parts

    assert "yet" in verdict_summary(tmp_path / "claims.csv")
    rows = [
        {"claim": "a", "version": "v1", "where": "§1", "statement": "avg@32 *rises* by |x|_2", "verdict": SUPPORTED},
        {"claim": "a", "version": "v1", "where": "§1", "statement": "avg@32 *rises* by |x|_2", "verdict": SUPPORTED},
        {"claim": "b", "version": "v2", "where": "Fig. 2", "statement": "It falls.", "verdict": UNDECIDED},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "claims.csv", index=False)
    text = verdict_summary(tmp_path / "claims.csv")
    assert text.startswith("2 claims: 1 supported, 1 undecided.")
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["html_body"]
    assert "avg&#64;32 *rises* by |x|_2" in page and page.count("<tr") == 3
