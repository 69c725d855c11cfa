"""What changes outside the specs rerun: the place and content of data, limits of grading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srt.artefacts.specs import data_content
from srt.common.io import sha256_file
from srt.config import load_config, read_yaml
from support.dag import MICRO, jobs, snakemake, trained

MAIN = "tests/micro/config.yaml"
TARGETS = ("taught_s1", "claims", "provenance")
DONE = "Nothing to be done"


def rows(first: int, count: int) -> str:
    """Sums of two digits as JSON lines."""
    question = "State the final answer to the following arithmetic problem: "
    pairs = (divmod(number, 10) for number in range(first, first + count))
    lines = ({"problem": f"{question}{a} + {b} =", "answer": str(a + b)} for a, b in pairs)
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def taught(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which a run has learned from labels of the base model, on local data files."""
    folder = tmp_path_factory.mktemp("reruns") / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)  # with a base model
    micro = folder / "tests/micro"
    (micro / "datasets.yaml").write_text(
        "sums: {source: local, path: sums.jsonl}\nsums_test: {source: local, path: sums_test.jsonl}\n"
    )
    (micro / "experiments.yaml").write_text(
        "taught: {label: Offline labels, method: offline, model: micro, data: sums, reward: offline_labels, steps: 1, "
        "segment: 1, suites: [tests]}\n"
    )
    (micro / "figures.yaml").write_text("{}\n")
    claim = "{statement: It rises., version: ours, where: here, estimator: change, options: {run: taught, datasets: "
    claim += "[sums_test]}, expect: {above: 0}, max_width: 1}"
    text = f"local_dir: here\nclaims: {{rises: {claim}}}\n"
    (folder / MAIN).write_text((folder / MAIN).read_text(encoding="utf-8") + text, encoding="utf-8")
    (folder / "here").mkdir()
    (folder / "here/sums.jsonl").write_text(rows(0, 24))
    (folder / "here/sums_test.jsonl").write_text(rows(50, 8))
    snakemake(folder, *MICRO, *TARGETS)
    return folder


@pytest.fixture
def again(taught: Path, tmp_path: Path) -> Path:
    """A copy of `taught`, to be changed."""
    return Path(shutil.copytree(taught, tmp_path / "changed", symlinks=True))


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / MAIN).read_text(encoding="utf-8")
    assert old in text
    (folder / MAIN).write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.long
def test_data_in_another_folder_rerun_nothing(again: Path) -> None:
    assert DONE in snakemake(again, *MICRO, "-n", *TARGETS)
    (again / "here").rename(again / "there")
    edit(again, "local_dir: here", "local_dir: there")
    for file in (again / "there").iterdir():
        file.touch()
    assert DONE in snakemake(again, *MICRO, "-n", *TARGETS)


@pytest.mark.long
def test_other_rows_in_a_file_rerun_what_is_made_of_them(again: Path) -> None:
    (again / "here/sums.jsonl").write_text(rows(1, 24))
    output = snakemake(again, *MICRO, "-n", *TARGETS)
    planned = jobs(output)
    assert planned["data"] == planned["labels"] == planned["train_last"] == 1 and trained(output) == {"taught-s1"}
    assert "base_model" not in planned and "Data set sums_test" not in output
    # samples of the training set and of the trained model, but not of the base model on the test set
    assert planned["sample"] == planned["score"] == 2 and planned["claims"] == 1


def test_data_that_were_put_away_rerun_nothing_and_a_new_clone_is_planned_without_them(again: Path) -> None:
    shutil.rmtree(again / "here")
    assert DONE in snakemake(again, *MICRO, "-n", *TARGETS)
    shutil.rmtree(again / "results")
    assert jobs(snakemake(again, *MICRO, "-n", *TARGETS))["data"] == 2
    output = snakemake(again, *MICRO, "all_data", code=1)
    assert "here/sums.jsonl does not exist: put it there, or set local_dir" in output and "Job stats" in output
    assert "Data set sums" not in output  # no job has started


def test_limits_of_grading_rerun_nothing_and_its_preset_all_scores(again: Path) -> None:
    edit(again, "scoring: {workers: 1}", "scoring: {workers: 2, memory_mb: 4000, timeout_s: 9}\nsave_every: 7")
    edit(again, "save_every: 1\n", "")
    assert DONE in snakemake(again, *MICRO, "-n", *TARGETS)
    edit(again, "workers: 2,", "workers: 2, preset: authors,")
    assert jobs(snakemake(again, *MICRO, "-n", *TARGETS))["score"] == 3


def test_the_content_of_a_data_set(taught: Path) -> None:
    def config(**changes: object):  # type: ignore[no-untyped-def]
        return load_config(read_yaml(taught / MAIN) | changes, taught, MAIN)

    results, here = str(taught / "results/micro"), str(taught / "here")
    assert data_content(config(local_dir=here), "sums") == sha256_file(taught / "here/sums.jsonl")
    # without the file, the manifest counts; without either, there is no content
    assert data_content(config(local_dir="nowhere", results=results), "sums") == sha256_file(taught / "here/sums.jsonl")
    assert data_content(config(local_dir="nowhere", results="nowhere"), "sums") == ""
    generated = {"sums": {"source": "reasoning_gym", "name": "chain_sum", "size": 4, "split": "test"}}
    raw = read_yaml(taught / MAIN)
    raw["files"].pop("datasets")
    raw["claims"] = {}
    both = {**generated, "sums_test": generated["sums"]}
    assert data_content(load_config(raw | {"datasets": both}, taught, MAIN), "sums") == ""
