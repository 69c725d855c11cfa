"""Results know what they were made from: without Snakemake's records, in copies, under another configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import warm
from support.dag import MICRO, jobs, snakemake

EXPENSIVE = {"data", "base_model", "sample", "score", "labels", "preferences", "curriculum", "train", "train_last"}
CONFIG = "tests/micro/config.yaml"


@pytest.fixture
def copied(micro_run: Path, tmp_path: Path) -> Path:
    """The results of a whole run in another place, as `cp -r` leaves them: new times, no records of Snakemake."""
    folder = tmp_path / "copied"
    shutil.copytree(micro_run, folder, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"), copy_function=_copy)
    return folder


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    shutil.copymode(source, target, follow_symlinks=False)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / CONFIG).read_text(encoding="utf-8")
    assert old in text
    (folder / CONFIG).write_text(text.replace(old, new), encoding="utf-8")


def planned(folder: Path, *args: str) -> tuple[set[str], str]:
    """The expensive rules that a dry-run plans, and all that it prints."""
    output = snakemake(folder, *MICRO, "-n", *args)
    return set(jobs(output)) & EXPENSIVE, output


def srt(folder: Path, *args: str, config: bool = True) -> subprocess.CompletedProcess[str]:
    """`srt COMMAND` in a copy of the tree."""
    words = ["-m", "srt.cli", *args, *(["--configfile", CONFIG] if config else [])]
    return warm.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder / "src")})


def records(folder: Path) -> list[Path]:
    return sorted((folder / "results").rglob("*.made.json"))


def test_every_expensive_result_has_a_record(micro_run: Path) -> None:
    rules = {json.loads(path.read_text())["rule"] for path in records(micro_run)}
    assert rules >= {"data", "base_model", "sample", "score", "labels", "curriculum", "train"}


def test_a_copy_plans_nothing_expensive(copied: Path) -> None:
    assert planned(copied)[0] == set()


def test_a_copy_elsewhere_by_absolute_path_plans_nothing_expensive(copied: Path, tmp_path: Path) -> None:
    (copied / "results/micro").rename(tmp_path / "elsewhere")
    assert planned(copied, "--config", f"results={tmp_path / 'elsewhere'}")[0] == set()


def test_a_changed_configuration_is_planned_again_without_snakemakes_records(copied: Path) -> None:
    edit(copied, "learning_rate: 1.0e-3", "learning_rate: 5.0e-2")
    edit(copied, "scoring: {workers: 1}", "scoring: {workers: 1, preset: authors}")
    rules, output = planned(copied)
    assert {"train", "score"} <= rules and "base_model" not in rules and "data" not in rules
    assert "it was made with train.learning_rate=0.001, now 0.05" in output
    assert "options=--preset clean" in output
    assert "results are not what the configuration asks for" in output


def test_other_sampling_settings_are_sampled_beside_the_former_ones(copied: Path) -> None:
    sampled = sorted((copied / "results").rglob("*.samples.parquet"))
    edit(copied, "{n: 8,", "{n: 4,")
    rules, output = planned(copied)
    assert {"sample", "score"} <= rules and not {"data", "base_model"} & rules
    assert "micro on tests: n=8, now 4, as micro/tests@" in output and "it was made with n=8" not in output
    # one evaluation at both settings, and back: nothing is made again, and both are told apart
    files = ["results/micro/eval/base/micro/tests" + end for end in (".groups.parquet", ".samples.parquet")]
    other = re.search(r"now 4, as micro/(tests@[0-9a-f]{8})", output)[1]
    before = [(copied / file).read_bytes() for file in files]
    snakemake(copied, *MICRO, files[0].replace("/tests.", f"/{other}."))
    assert [(copied / file).read_bytes() for file in files] == before
    summary = srt(copied, "summary", "--all-settings").stdout
    assert re.search(r"base model +0 +sums_test +tests +1\.0\b.* 8 ", summary)
    assert re.search(rf"base model +0 +sums_test +{other} +1\.0\b.* 4 ", summary)
    refused = snakemake(copied, *MICRO, "-n", "--forcerun", "sample", "--", files[0], code=1)
    assert f"has other settings: this configuration's are {other}" in refused
    edit(copied, "{n: 4,", "{n: 8,")
    rules, output = planned(copied)
    assert rules == set() and "other sampling settings" not in output
    assert [path for path in sampled if not path.exists()] == []


def test_the_report_says_on_its_first_page_that_results_are_of_another_configuration(copied: Path) -> None:
    snakemake(copied, *MICRO, "--report", "same.html")
    edit(copied, "learning_rate: 1.0e-3", "learning_rate: 5.0e-2")
    snakemake(copied, *MICRO, "--report", "other.html")
    warning = "Not all results below were made with the configuration of this report"
    assert warning not in (copied / "same.html").read_text(encoding="utf-8")
    assert warning in (copied / "other.html").read_text(encoding="utf-8")


def test_a_renamed_run_keeps_its_results(copied: Path) -> None:
    file = copied / "tests/micro/experiments.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("gt:\n", "truth:\n"), encoding="utf-8")
    figures = copied / "tests/micro/figures.yaml"
    figures.write_text(re.sub(r"\bgt\b", "truth", figures.read_text(encoding="utf-8")), encoding="utf-8")
    assert "train" in planned(copied)[0]
    assert srt(copied, "rename", "gt", "truth").returncode == 0
    assert planned(copied)[0] == set()
    again = srt(copied, "rename", "gt", "truth")
    assert again.returncode == 2 and "holds nothing of a run 'gt'" in again.stderr


def test_results_without_a_record_are_listed_before_distclean(copied: Path) -> None:
    assert srt(copied, "adopt", "--list", config=False).returncode == 0
    records(copied)[0].unlink()
    listed = srt(copied, "adopt", "--list", config=False)
    assert listed.returncode == 1 and "nothing but .snakemake records what made" in listed.stderr


def test_results_from_before_are_judged_by_snakemakes_records_and_then_get_their_own(
    micro_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_run, tmp_path / "before", symlinks=True))
    number = len(records(folder))
    for path in records(folder):
        path.unlink()
    assert "Nothing to be done" in snakemake(folder, *MICRO, "-n") and not records(folder)  # a dry-run writes nothing
    snakemake(folder, *MICRO)
    assert len(records(folder)) == number
    shutil.rmtree(folder / ".snakemake")
    assert planned(folder)[0] == set()


def test_results_of_unknown_origin_are_never_made_again_in_silence(copied: Path) -> None:
    for path in records(copied):
        path.unlink()
    before = {path: path.read_bytes() for path in (copied / "results").rglob("*.safetensors")}
    rules, output = planned(copied)
    assert rules == set() and "of unknown origin" in output and "srt adopt" in output
    refused = snakemake(copied, *MICRO, code=1)
    assert "of unknown origin" in refused and {path: path.read_bytes() for path in before} == before
    adopted = srt(copied, "adopt")
    assert adopted.returncode == 0, adopted.stderr
    rules, output = planned(copied)
    assert rules == set() and "of unknown origin" not in output


def test_a_job_that_dies_leaves_no_record(copied: Path) -> None:
    edit(copied, "learning_rate: 1.0e-3", "learning_rate: 5.0e-2")
    script = copied / "scripts/train.py"
    script.write_text("import sys\nsys.exit('dead')\n", encoding="utf-8")
    output = snakemake(copied, *MICRO, "--retries", "0", "results/micro/runs/gt-s1/step-2/model", code=1)
    assert "Train gt-s1/step-2" in output
    assert not (copied / "results/micro/runs/gt-s1/step-2/model.made.json").exists()
