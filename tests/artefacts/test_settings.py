"""Evaluations of different sampling settings have different names, which do not change while a run goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from srt.artefacts import settings
from srt.artefacts.evaluations import evaluations
from srt.artefacts.records import Made, Records
from srt.artefacts.settings import settings_on_disk, stored_suite
from srt.artefacts.specs import sample_spec
from srt.artefacts.training_inputs import method_inputs
from srt.claims.resolve import resolve_claims
from srt.common.errors import SrtError
from srt.common.io import read_json, write_json, write_parquet
from srt.config import Config
from srt.plan.jobs import build
from support.config_files import MAIN, RUNS, change, load, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # `results` of the configuration is relative
    write(tmp_path)
    return tmp_path


def name(folder: Path, model: str = "tiny", suite: str = "tests") -> str:
    """What a new process finds."""
    settings._settings_on_disk.cache_clear()
    return stored_suite(load(folder), model, suite)


def sampled(folder: Path, checkpoint: str = "base/tiny", suite: str = "tests", record: bool = True) -> Path:
    """Samples of the present settings, under the name that they have, with a record or with metadata alone."""
    config = load(folder)
    model = config.checkpoint_model(checkpoint)
    spec = sample_spec(config, model, suite)
    path = folder / f"results/test/eval/{checkpoint}/{name(folder, model, suite)}.samples.parquet"
    write_parquet(path, pd.DataFrame({"n": [1]}), {} if record else {"spec": json.loads(spec)})
    if record:
        Records(folder / "results/test").write(Made("sample", {"spec": spec}, (), (str(path),)))
    return path


def started(folder: Path) -> Config:
    """A run of the present configuration has started: all names that it uses are written down."""
    settings._settings_on_disk.cache_clear()
    config = load(folder)
    build(config)
    settings_on_disk(config.results).register()
    return config


def set_n(folder: Path, old: int, new: int) -> None:
    change(folder, MAIN, f"n: {old}\n", f"n: {new}\n")


@pytest.mark.parametrize("record", [True, False])
def test_results_from_before_keep_their_name_and_other_settings_get_another(folder: Path, record: bool) -> None:
    assert name(folder) == "tests"
    sampled(folder, record=record)
    assert name(folder) == "tests"
    set_n(folder, 8, 4)
    other = name(folder)
    assert other != "tests" and other.startswith("tests@") and len(other) == len("tests@") + 8
    (sentence,) = settings_on_disk(load(folder).results).sentences()
    assert f"tiny on tests: n=8, now 4, as tiny/{other}" in sentence
    set_n(folder, 4, 8)
    assert name(folder) == "tests" and not settings_on_disk(load(folder).results).sentences()


def test_names_are_the_same_before_during_and_after_a_run(folder: Path) -> None:
    started(folder)
    sampled(folder)
    started(folder)
    set_n(folder, 8, 4)
    planned = name(folder)
    started(folder)
    during = name(folder)
    sampled(folder)
    assert planned == during == name(folder) != "tests"
    set_n(folder, 4, 2)
    third = name(folder)
    assert third not in ("tests", planned)
    started(folder)
    set_n(folder, 2, 4)
    assert name(folder) == planned
    set_n(folder, 4, 8)
    assert name(folder) == "tests"


def test_a_name_without_samples_is_free(folder: Path) -> None:
    """A run that was stopped before its first sample does not take the name for settings given by mistake."""
    started(folder)
    set_n(folder, 8, 4)
    assert name(folder) == "tests"
    started(folder)
    assert read_json(folder / "results/test/eval/settings.json")["tiny/tests"]["n"] == 4
    assert name(folder) == "tests"


def test_a_model_with_its_own_sampling_is_told_apart_alone(folder: Path) -> None:
    sampled(folder, "base/tiny")
    sampled(folder, "base/hub7b")
    change(folder, "models.yaml", "repo: Qwen", "sampling: {temperature: 0.7}\n  repo: Qwen")
    assert name(folder, "tiny") == "tests" and name(folder, "hub7b") != "tests"


def test_a_new_revision_of_the_code_replaces_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srt.artefacts import specs

    sampled(folder)
    monkeypatch.setitem(specs.REVISION, "sample", 99)
    assert name(folder) == "tests"


def test_two_runs_do_not_give_one_name_to_two_settings(folder: Path) -> None:
    config = load(folder)
    settings._settings_on_disk.cache_clear()
    stored_suite(config, "tiny", "tests")
    write_json(folder / "results/test/eval/settings.json", {"tiny/tests": {"n": 1}})
    with pytest.raises(SrtError, match="another run has sampled tiny/tests with other settings meanwhile"):
        settings_on_disk(config.results).register()


def test_a_damaged_list_is_named(folder: Path) -> None:
    write_json(folder / "results/test/eval/settings.json", [1])
    with pytest.raises(SrtError, match=r"settings\.json does not map names to settings: delete it"):
        name(folder)


def test_everything_that_reads_evaluations_reads_those_of_the_configuration(folder: Path) -> None:
    """Tables, figures, claims, labels, curricula and the plan: no file of the former settings is left among them."""
    change(folder, RUNS, "suites: [tests]", "suites: [tests]\n  probe: {suites: [other], step: 6}")
    change(folder, MAIN, "figures: figures.yaml", "figures: figures.yaml\n  claims: claims.yaml")
    (folder / "claims.yaml").write_text(
        "gains:\n  statement: It gains.\n  version: ours\n  where: here\n  estimator: suite_gain\n"
        "  options: {run: gt, datasets: [far_test], suites: [other], at: 6}\n  expect: {above: 0}\n  max_width: 1\n"
        "level:\n  statement: It gains.\n  version: ours\n  where: here\n  estimator: level\n"
        "  options: {run: gt, datasets: [more_test], at: 6}\n  expect: {above: 0}\n  max_width: 1\n"
    )
    change(folder, RUNS, "reward: ground_truth", "reward: offline_labels")
    before = {path for job in build(load(folder)).jobs.values() for path in job.outputs}
    for path in before:
        if path.endswith(".samples.parquet"):
            checkpoint, suite = path.removeprefix("results/test/eval/").removesuffix(".samples.parquet").rsplit("/", 1)
            sampled(folder, checkpoint, suite)
    set_n(folder, 8, 4)
    config = started(folder)
    after = {path for job in build(config).jobs.values() for path in job.outputs}
    of_samples = ("/eval/", "/labels/", "/curriculum/")
    assert [path for path in after if any(part in path for part in of_samples) and "@" not in path] == []
    assert {re.sub("@[0-9a-f]{8}", "", path) for path in after} == before
    assert all("@" in path for row in evaluations(config) for path in row["groups"])
    assert all("@" in path for path in resolve_claims(config)[1])
    assert "@" in method_inputs(config, "gt-s1")["labels"] and "@" in method_inputs(config, "srt-s1")["subset"]
