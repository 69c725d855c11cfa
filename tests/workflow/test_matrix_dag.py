"""The full matrix and a small chain of runs as Snakemake plans them: no job twice, and what a change reruns."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yte

from srt.artefacts.evaluations import evaluations
from srt.figures.resolve import resolve_figure
from srt.plan.jobs import build
from srt.plan.preview import preview
from srt.workflow import preflight
from support import ROOT
from support.config_files import full
from support.dag import MICRO, copy_of_the_tree, jobs, snakemake, trained

# -- on the DAG -------------------------------------------------------------------------------------------------------


def test_the_full_matrix_is_planned_with_no_job_twice(full_plan: str) -> None:
    """`benchmarks/dryrun.py` measures how long this takes."""
    # a job prints its message, which names its outputs
    made = re.findall(r"^Job \d+: (.+)$", full_plan, re.MULTILINE)
    assert len(made) > 4000 and sorted(made) == sorted(set(made))
    matrix = full()
    planned = jobs(full_plan)
    assert planned["fig2"] == planned["results_table"] == 1
    assert planned["train"] + planned["train_last"] == sum(
        len(r.checkpoints) * len(r.seeds) for r in matrix.runs.values()
    )
    files = {file for row in evaluations(matrix) for file in row["groups"]}
    files |= {file for name in matrix.figures for file in resolve_figure(matrix, name)[1] if "groups" in file}  # probes
    assert (
        0 <= planned["sample"] - len(files) < 30 and planned["sample"] == planned["score"]
    )  # the difference: samples for labels and curricula


@pytest.mark.slow
def test_the_first_command_on_a_cluster_prints_sixty_lines_at_most(full_plan: str, tmp_path: Path) -> None:
    """The header of a small configuration, and the summary of the full matrix."""
    short = snakemake(copy_of_the_tree(tmp_path), "--profile", "slurm", "--configfile", "config/smoke.yaml", "-n")
    assert "Job 1:" not in short and "Job stats" not in short
    header, _, summary = short.partition(" jobs are planned: ")
    assert "GPU-hours" in summary and "the same command with --quiet host" in summary
    every = [path for job in build(full()).jobs.values() for path in job.outputs]
    count, _, summary = preview(full(), every).partition(" jobs are planned: ")
    planned = jobs(full_plan)
    assert int(count.replace(",", "")) == planned["total"] - 1, "all but the target itself"
    missing = preflight.WARNINGS + 1  # and a line on --quiet host
    assert len(header.splitlines()) + len(summary.splitlines()) + missing <= 60
    rows = [line.split() for line in summary.splitlines() if line.startswith("  ")][1:]
    counted = {" ".join(row[:-2]): int(row[-2].replace(",", "")) for row in rows}
    assert counted["data"] == planned["data"] and counted["scoring"] == planned["score"]
    trained = {name: number for name, number in counted.items() if name.startswith("training ")}
    assert len(trained) > 3 and sum(trained.values()) == planned["train"] + planned["train_last"]


@pytest.mark.slow
def test_the_plan_of_the_full_matrix_needs_no_option_and_no_profile(tmp_path: Path) -> None:
    """As typed in a fresh clone; the job reads the resolved configuration."""
    clone = copy_of_the_tree(tmp_path / "clone")
    said = snakemake(clone, "plan")
    assert "total, each job once" in said and "1 of 1 steps (100%) done" in said
    table = pd.read_csv(clone / "results/full/plan/plan.csv")
    assert {"fig3", "v2_fig5"} <= set(table["target"]) and (table["jobs"] > 0).all()


@pytest.mark.parametrize(
    ("options", "variable", "used"),
    [
        (["plan"], None, True),
        (["fig2", "--cores", "2"], None, True),
        (["--profile", "slurm"], None, False),
        (["--profile=slurm"], None, False),
        (["-e", "slurm"], None, False),
        (["--executor", "slurm"], None, False),
        (["plan"], "slurm", False),
    ],
)
def test_the_default_profile_is_empty_beside_another(monkeypatch, options, variable, used) -> None:
    """Otherwise Snakemake would prefer the default profile's values."""
    monkeypatch.setattr(sys, "argv", ["snakemake", *options])
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    if variable:
        monkeypatch.setenv("SNAKEMAKE_PROFILE", variable)
    profiles = ROOT / "workflow/profiles"
    with open(ROOT / "profiles/default/config.v9+.yaml") as default, open(profiles / "local/config.v9+.yaml") as local:
        assert (yte.process_yaml(default) or {}) == (yte.process_yaml(local) if used else {})


SHARED = (
    "keep-going", "scheduler", "rerun-incomplete", "rerun-triggers", "max-checksum-file-size", "nolock",
    "show-failed-logs",
)  # fmt: skip


@pytest.mark.parametrize("profile", sorted(path.name for path in (ROOT / "workflow/profiles").iterdir()))
def test_what_counts_as_up_to_date_is_the_same_under_every_profile(profile: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["snakemake"])  # the default profile is empty beside another
    settings = {}
    for name in (profile, "local"):
        with open(ROOT / f"workflow/profiles/{name}/config.v9+.yaml") as file:
            settings[name] = yte.process_yaml(file)
    assert {key: settings[profile][key] for key in SHARED} == {key: settings["local"][key] for key in SHARED}


@pytest.fixture(scope="module")
def climbed(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which a small DAG has run: a warm-up, SRT from its end, and the same with a fixed teacher.

    Data and base model are those of the micro DAG, whose other results are removed.
    """
    folder = tmp_path_factory.mktemp("climb") / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    for part in (folder / "results/micro").iterdir():
        if part.is_dir() and part.name not in ("data", "models"):
            shutil.rmtree(part)
    micro = folder / "tests/micro"
    (micro / "experiments.yaml").write_text(
        "up: {label: Ground truth, method: ground_truth, model: micro, data: sums, reward: ground_truth, steps: 2, "
        "segment: 2, suites: [tests]}\n"
        "more: {extends: up, label: SRT, method: srt, reward: majority, segment: 1, init: {run: up}, "
        "validation: {dataset: sums_test, metric: maj}}\n"
        "taught: {extends: more, label: Fixed teacher, method: offline, reward: offline_labels, steps: 1}\n"
    )
    (micro / "figures.yaml").write_text("{}\n")
    with open(micro / "config.yaml", "a", encoding="utf-8") as main:
        main.write("gradings: {runs: [more], datasets: [sums_test]}\n")
    snakemake(folder, *MICRO, *TARGETS)
    return folder


TARGETS = ("early_stopping", "gradings")


@pytest.mark.long
def test_a_climbing_run_starts_from_the_weights_of_the_last(climbed: Path) -> None:
    root = climbed / "results/micro"
    stopped = pd.read_csv(root / "tables/early_stopping.csv")
    assert sorted(stopped["run"]) == ["more-s1", "taught-s1"] and set(stopped["dataset"]) == {"sums_test"}
    assert (stopped["at_stop"] == stopped["best"]).all()
    # step 0 is the last checkpoint of the warm-up, which is also the teacher
    groups = pd.read_parquet(root / "eval/up-s1/step-2/tests.groups.parquet")
    assert stopped["start"].round(6).unique().tolist() == [round(float(groups["majority_correct"].mean()), 6)]
    graded = pd.read_csv(root / "tables/gradings.csv")
    assert graded["grading"].tolist() == ["clean"] * 3 + ["authors"] * 3 and set(graded["run"]) == {"more"}
    groups = pd.read_parquet(root / "eval/up-s1/step-2/tests.groups.parquet")
    assert graded["value"][0] == pytest.approx(float(groups["pass_rate"].mean()), abs=1e-6)
    assert (root / "labels/up-s1/step-2/sums.parquet").is_file() and not (root / "labels/base").exists()


def planned(climbed: Path, tmp_path: Path, old: str, new: str) -> tuple[dict[str, int], str]:
    folder = tmp_path / "changed"
    shutil.copytree(climbed, folder, symlinks=True)
    file = folder / "tests/micro/experiments.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    output = snakemake(folder, *MICRO, "-n", *TARGETS)
    return jobs(output), output


@pytest.mark.long
def test_nothing_is_left_to_do(climbed: Path) -> None:
    assert "Nothing to be done" in snakemake(climbed, *MICRO, "-n", *TARGETS)


@pytest.mark.long
def test_a_hyperparameter_of_the_first_level_reruns_what_comes_from_it(climbed: Path, tmp_path: Path) -> None:
    stats, output = planned(climbed, tmp_path, "suites: [tests]}", "suites: [tests], train: {learning_rate: 2.0e-3}}")
    assert trained(output) == {"up-s1", "more-s1", "taught-s1"} and stats["labels"] == 1 and "base_model" not in stats


@pytest.mark.long
def test_a_hyperparameter_of_the_last_level_reruns_that_run_only(climbed: Path, tmp_path: Path) -> None:
    stats, output = planned(
        climbed, tmp_path, "reward: offline_labels", "reward: offline_labels, train: {betas: [0.9, 0.99]}"
    )
    assert trained(output) == {"taught-s1"} and "labels" not in stats


@pytest.mark.long
def test_names_and_validation_train_nothing(climbed: Path, tmp_path: Path) -> None:
    stats, output = planned(climbed, tmp_path, "label: SRT", "label: Self-training")
    assert trained(output) == set() and "sample" not in stats and stats["early_stopping"] == 1


@pytest.mark.long
def test_extending_the_last_level_trains_its_new_segment_only(climbed: Path, tmp_path: Path) -> None:
    stats, output = planned(climbed, tmp_path, "reward: offline_labels, steps: 1", "reward: offline_labels, steps: 2")
    assert trained(output) == {"taught-s1"} and stats["train_last"] == stats["sample"] == 1 and "train" not in stats
