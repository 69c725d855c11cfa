"""The workflow as a user runs it: dry-runs of every profile, a whole small DAG, reruns, kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srt.workflow.wildcards import checkpoints_pattern, runs_pattern
from support.commands import srt
from support.dag import MICRO, copy_of_the_tree, jobs, results, snakemake


@pytest.fixture(scope="module")
def clone(micro_run, tmp_path_factory) -> Path:
    """A copy of the tree in which the micro DAG has run, for this module to change."""
    folder = tmp_path_factory.mktemp("clone") / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    return folder


def test_the_dag_makes_every_declared_result(clone):
    made = results(clone)
    for name in ("figures/fig2.pdf", "figures/fig2.png", "figures/fig2.csv", "tables/results.csv",
                 "runs/gt-s1/metrics.csv", "runs/gt-s1/step-4/model/model.safetensors"):  # fmt: skip
        assert made[name], name
    root = clone / "results" / "micro"
    assert (root / "logs/train/gt-s1/step-2.log").read_text()
    assert (root / "benchmarks/train/gt-s1/step-2.tsv").read_text().startswith("s\t")
    # keep_states: last: a state that a later step has started from is deleted; the last one stays for extensions
    assert not (root / "runs/gt-s1/step-2/state").exists() and (root / "runs/gt-s1/step-4/state").is_dir()
    # the progress folders keep only the last state, as links to it
    kept = sorted(str(p.relative_to(root / "progress")) for p in (root / "progress").rglob("state-*"))
    assert kept == ["gt-s1/step-4/state-4", "offline_easy-s1/step-2/state-2"]


def test_a_segment_is_described_in_a_file_of_its_own(clone):
    from srt.training.segment import read_segment

    root = Path("results/micro")
    segment = read_segment(clone / root / "progress/gt-s1/step-4/segment.json")
    assert (segment.start, segment.stop, segment.spec["run"], segment.save_every) == (2, 4, "gt-s1", 1)
    assert (segment.base, segment.resume) == (root / "models/micro", root / "runs/gt-s1/step-2/state")
    assert segment.model_out == root / "runs/gt-s1/step-4/model" and segment.logs == root / "progress/gt-s1"
    assert segment.data.problems == root / "data/sums.parquet" and segment.data.labels is None
    assert segment.reference_offload is segment.engine_sleep is False and segment.minutes > 0
    first = read_segment(clone / root / "progress/offline_easy-s1/step-2/segment.json")
    assert first.resume is None and first.data.labels and first.data.subset and first.data.preferences is None


def test_nothing_to_do_after_a_run_nor_after_touching_or_commenting_code(clone):
    assert "Nothing to be done" in snakemake(clone, *MICRO, "-n")
    for file in [*clone.glob("scripts/*.py"), *clone.glob("src/srt/**/*.py"), *clone.glob("rules/*.smk")]:
        with open(file, "a", encoding="utf-8") as handle:
            handle.write("\n# a comment\n")
    assert "Nothing to be done" in snakemake(clone, *MICRO, "-n")


def changed(clone: Path, tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of the clone with its results, and one change in a config file."""
    folder = tmp_path / "changed"
    shutil.copytree(clone, folder, symlinks=True)
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def test_a_learning_rate_reruns_its_run_and_what_depends_on_it(clone, tmp_path):
    file = "tests/micro/experiments.yaml"
    folder = changed(
        clone, tmp_path, file, "steps: 4, segment: 2", "steps: 4, segment: 2, train: {learning_rate: 2.0e-3}"
    )
    output = snakemake(folder, *MICRO, "-n")
    assert jobs(output) == {
        "train": 1, "train_last": 1, "sample": 2, "score": 2, "run_metrics": 1, "fig2": 1, "results_table": 1, "all": 1,
        "decontaminated": 1, "browser": 1, "provenance": 1, "costs": 1, "total": 14,
    }  # fmt: skip
    assert "Train offline_easy-s1" not in output


def test_a_label_redraws_figures_only(clone, tmp_path):
    folder = changed(clone, tmp_path, "tests/micro/experiments.yaml", "label: Ground truth", "label: GT")
    assert jobs(snakemake(folder, *MICRO, "-n")) == {
        "fig2": 1, "results_table": 1, "decontaminated": 1, "browser": 1, "browser_list": 1, "provenance": 1,
        "costs": 1, "all": 1, "total": 8,
    }  # fmt: skip


def test_extending_a_run_trains_the_new_segment_only(clone, tmp_path):
    folder = changed(clone, tmp_path, "tests/micro/experiments.yaml", "steps: 4, segment: 2", "steps: 6, segment: 2")
    planned = jobs(snakemake(folder, *MICRO, "-n"))
    assert "train" not in planned and planned["train_last"] == planned["sample"] == 1


def test_grading_changes_never_sample_again(clone, tmp_path):
    folder = changed(
        clone, tmp_path, "tests/micro/config.yaml", "scoring: {workers: 1}", "scoring: {workers: 1, preset: authors}"
    )
    output = snakemake(folder, *MICRO, "-n")
    assert jobs(output)["score"] == 5
    # labels depend on grading, so the run that learns from them is trained again; nothing else is sampled
    assert re.findall(r"Job \d+: Sample (\S+)", output) == ["offline_easy-s1/step-2"]


@pytest.mark.slow
def test_one_figure_plans_only_what_it_needs(tmp_path):
    folder = copy_of_the_tree(tmp_path)
    planned = jobs(snakemake(folder, *MICRO, "-n", "fig9"))
    assert planned == {"data": 1, "base_model": 1, "sample": 1, "score": 1, "fig9": 1, "total": 5}


def test_unknown_targets_name_what_there_is(clone):
    output = snakemake(clone, *MICRO, "-n", "results/micro/runs/gt-s1/step-3/metrics.parquet", code=1)
    assert "run gt-s1 has no checkpoint at step 3: its steps are 2, 4" in output
    for wrong, right in (("fgi2", "fig2"), ("results/micro/figures/fig22.pdf", "results/micro/figures/fig2.pdf")):
        output = snakemake(clone, *MICRO, "-n", wrong, code=1)
        assert f"There is no target '{wrong}' (did you mean '{right}'?): snakemake --list" in output


def test_the_list_of_targets_is_for_people(clone):
    said = snakemake(clone, "--configfile", MICRO[3], "--list")
    last = (
        "fig2 (2 figures and tables of the paper)",
        "gt_s1 (2 runs of one seed, each with its evaluations)",
        "All of them: snakemake --list-target-rules",
    )
    assert "\n".join(last) in said and len(said.splitlines()) < 20
    listed = [line.split()[0] for line in snakemake(clone, "--configfile", MICRO[3], "--lt").splitlines()]
    assert {"all_train", "fig2", "fig9", "gt_s1", "offline_easy_s1"} <= set(listed) and "train" not in listed


def test_two_workflows_in_one_folder_are_refused(clone):
    from srt.common.lock import folder_lock

    with folder_lock(clone / "results/micro/.lock"):
        output = snakemake(clone, *MICRO, "-R", "fig9", code=1)
    assert f"is in use by process {os.getpid()} on" in output


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, "the workflow ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_sigkill_of_everything_then_the_same_command_gives_the_same_bytes(clone, tmp_path):
    folder = copy_of_the_tree(tmp_path)
    root = folder / "results" / "micro"
    moments = (
        lambda: (root / "logs/models/micro.log").exists(),
        lambda: any(root.glob("progress/gt-s1/step-*/state-*")),
        lambda: any(root.glob("eval/gt-s1/step-*/*.samples.parquet")),
    )
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *MICRO, "gt_s1"], cwd=folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(process, moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    snakemake(folder, *MICRO, "gt_s1")
    ours, theirs = results(folder), results(clone)
    assert ours.keys() <= theirs.keys() and sum(name.endswith("model.safetensors") for name in ours) == 3
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert "Nothing to be done" in snakemake(folder, *MICRO, "-n", "gt_s1")


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written_and_the_same_command_goes_on(tmp_path):
    folder = copy_of_the_tree(tmp_path)
    root = folder / "results" / "micro"
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *MICRO, "all_models"], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until(process, lambda: (root / "logs/models/micro.log").exists())
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=400) != 0
    assert not (root / "models/micro").exists()
    snakemake(folder, *MICRO, "all_models")
    assert (root / "models/micro/model.safetensors").is_file()


def test_a_failed_job_names_its_log_and_leaves_no_output(clone, tmp_path):
    folder = changed(clone, tmp_path, "tests/micro/datasets.yaml", "size: 24", "size: 4000")
    log = folder / "results/micro/logs/data/sums.log"
    command = ("--configfile", MICRO[3], "--cores", "2", "--", sys.executable, "-m", "snakemake", *MICRO, "all_data")
    shown = srt("watch", *command, folder=folder, code=1).stderr
    assert "FAILED: Data set sums; the end of results/micro/logs/data/sums.log:\n" in shown
    assert f"\n  | {log.read_text().splitlines()[-1]}\n" in shown and "Traceback" not in shown + log.read_text()
    page = log.parents[1] / "workflow.html"
    assert "0 of 1 jobs done" in page.read_text(), "its former result does not count"
    assert "failed: 1 job (" in shown and len(shown.splitlines()) < 20
    assert not (folder / "results/micro/data/sums.parquet").exists()


def test_patterns_have_these_runs_and_checkpoints_and_no_others():
    runs = ["a-s1", "a-s2", "a_b-s1", "a_b-s2", "a_b-s10", "b_s-s3", "c-s1"]
    last = {run: 2 if run == "c-s1" else 5 for run in runs}
    exact, of_last = re.compile(runs_pattern(runs)), re.compile(checkpoints_pattern(last))
    for name in ("a", "a_b", "b", "b_s", "c", "s", ""):
        for seed in ("1", "2", "3", "10", "11", ""):
            run = f"{name}-s{seed}"
            assert bool(exact.fullmatch(run)) == (run in runs), run
            for step in (2, 5, 52):
                assert bool(of_last.fullmatch(f"{run}/step-{step}")) == (last.get(run) == step), (run, step)
    many = [f"run_{number}-s{seed}" for number in range(50) for seed in (1, 2, 3)]
    assert len(runs_pattern(many)) < len("|".join(many)) / 3
