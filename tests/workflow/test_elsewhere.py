"""The workflow runs from another folder, from the catalog's standard place, and as a module of another workflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srt.common.lock import folder_lock
from support import ROOT, warm
from support.dag import jobs

pytestmark = pytest.mark.slow
LOCAL = ["--profile", str(ROOT / "workflow/profiles/local"), "--cores", "2"]
CONFIG = ["--configfile", str(ROOT / "tests/micro/config.yaml")]


def snakemake(folder: Path, *args: str | Path, code: int = 0) -> str:
    """Snakemake in `folder` with this checkout's library; all that it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = warm.run(["-m", "snakemake", *map(str, args)], cwd=folder, env=environment, timeout=600)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


def results(folder: Path) -> dict[str, bytes]:
    """Weights, samples and tables of a run, by path."""
    kinds = ("tables/*.csv", "figures/*.csv", "eval/**/*.parquet", "**/model.safetensors")
    return {str(p.relative_to(folder)): p.read_bytes() for kind in kinds for p in sorted(folder.glob(kind))}


def checkout() -> dict[Path, int]:
    """When each file outside of caches was written."""
    places = [path for name in ("rules", "scripts", "src", "config", "tests/micro", "workflow")
              for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts]  # fmt: skip
    return {path: path.lstat().st_mtime_ns for path in [*places, *ROOT.glob("*")] if path.is_file()}


@pytest.mark.long
def test_from_another_folder_and_writing_nothing_into_the_checkout(tmp_path: Path, micro_run: Path) -> None:
    before, inside = checkout(), set(os.listdir(ROOT))
    snakemake(tmp_path, "-s", ROOT / "Snakefile", *LOCAL, *CONFIG, "--", "gt_s1")
    ours, theirs = results(tmp_path / "results/micro"), results(micro_run / "results/micro")
    assert sum(name.endswith("model.safetensors") for name in ours) == 3 and ours.items() <= theirs.items()
    assert checkout() == before and set(os.listdir(ROOT)) - inside <= {"results"}
    assert not (ROOT / "results/micro").exists() or "results" in inside
    assert "Nothing to be done" in snakemake(ROOT, "--directory", tmp_path, *LOCAL, *CONFIG, "-n", "gt_s1")


def test_the_full_configuration_is_found_from_another_folder(tmp_path: Path) -> None:
    output = snakemake(tmp_path, "-s", ROOT / "Snakefile", *LOCAL, "-n", "all_data")
    assert jobs(output)["data"] > 5


def test_the_standard_place_of_the_catalog(tmp_path: Path) -> None:
    assert jobs(snakemake(tmp_path, "-s", ROOT / "workflow/Snakefile", *LOCAL, *CONFIG, "-n"))["everything"] == 1


@pytest.mark.long
def test_as_a_module_with_a_prefix_and_another_configuration(tmp_path: Path, micro_run: Path) -> None:
    (tmp_path / "Snakefile").write_text(f"""
import yaml

module srt:
    snakefile: "{ROOT}/Snakefile"
    config: yaml.safe_load(open("{ROOT}/tests/micro/config.yaml"))
    prefix: "study"

use rule * from srt as srt_*

onstart:
    srt.onstart()

rule all:
    default_target: True
    input:
        rules.srt_all.input,
        "length.txt",

rule length:
    input:
        "study/results/micro/tables/results.csv",
    output:
        "length.txt",
    shell:
        "wc -l < {{input}} > {{output}}"
""")
    snakemake(tmp_path, "--cores", "2", "--rerun-triggers", "mtime", "params", "input")
    assert results(tmp_path / "study/results/micro") == results(micro_run / "results/micro")
    assert (tmp_path / "length.txt").exists() and sorted(p.name for p in tmp_path.glob("[!.]*")) == [
        "Snakefile", "length.txt", "study",
    ]  # fmt: skip
    assert list((tmp_path / "study").rglob("model.made.json"))
    (tmp_path / ".snakemake").rename(tmp_path / "gone")
    output = snakemake(tmp_path, "--cores", "2", "--rerun-triggers", "mtime", "params", "input", "-n")
    assert not {"srt_train", "srt_sample", "srt_data"} & set(jobs(output)), output


def test_results_are_not_deleted_while_a_workflow_runs(tmp_path: Path) -> None:
    kept = tmp_path / "results/micro/data/sums.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_text("rows")
    delete = ["-s", ROOT / "Snakefile", *LOCAL, *CONFIG, "--delete-all-output"]
    with folder_lock(tmp_path / "results/micro/.lock"):
        assert "is in use by process" in snakemake(tmp_path, *delete, code=1) and kept.exists()
    snakemake(tmp_path, *delete)
    assert not kept.exists()
