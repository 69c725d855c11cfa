"""What is looked at before the first job: inputs, results folder, hub, space, GPUs and partitions."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from srt.cluster.partitions import ClusterLimits, Partition
from srt.plan.needs import needs
from srt.workflow import preflight
from support import ROOT
from support.config_files import DATASETS, MODELS, change, load, write
from support.dag import MICRO, copy_of_the_tree, snakemake
from support.hub_server import NEW, Hub, serve

MISSING = ["data: mine: mine.parquet does not exist: put it there, or set local_dir",
           "models: own: own/config.json does not exist: correct its path"]  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose micro configuration names a data set and a model that are not there."""
    folder = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    for name, entry in (("datasets", "mine: {source: local, path: mine.parquet}"),
                        ("models", "own: {source: local, path: own}")):  # fmt: skip
        with open(folder / f"tests/micro/{name}.yaml", "a", encoding="utf-8") as file:
            file.write(f"{entry}\n")
    return folder


def test_a_dry_run_names_missing_inputs_of_planned_jobs(tree: Path) -> None:
    targets = ["results/micro/data/mine.parquet", "results/micro/models/own"]
    warnings = re.findall(r"(?m)^warning: (.*)$", snakemake(tree, *MICRO, "-n", *targets))
    assert warnings == MISSING
    assert "warning: " not in snakemake(tree, *MICRO, "-n", "results/micro/data/sums.parquet")
    output = snakemake(tree, *MICRO, "-n", "--config", "results=/proc/x", "--", "/proc/x/data/sums.parquet")
    assert re.search(r"(?m)^warning: results: /proc/x: /proc cannot be written \(.*\): change the key results$", output)


def test_a_run_refuses_to_start_without_its_inputs(tree: Path) -> None:
    output = snakemake(tree, *MICRO, "results/micro/data/mine.parquet", "results/micro/models/own", code=1)
    assert f"\nerror: {MISSING[0]} (and 1 more: srt check lists them)\n" in output and 'File "' not in output
    assert "Execute" not in output and not (tree / "results/micro/logs").exists()
    output = snakemake(tree, *MICRO, "--config", "results=/proc/x", "--", "/proc/x/data/sums.parquet", code=1)
    assert "results: /proc/x: /proc cannot be written" in output and "Execute" not in output


def test_a_run_starts_with_one_line(tree: Path) -> None:
    output = snakemake(tree, *MICRO, "results/micro/data/sums.parquet")
    assert re.findall(r"(?m)^checked: (.*)$", output) == [
        "all local data sets are there or made; all local models are there or made; results/micro can be written; "
        "no job asks for a GPU"
    ]
    assert "figures: " not in output, "none was made"


def test_ten_warnings_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    preflight.warn([preflight.Finding("data", number % 2 == 1, f"{number}") for number in range(40)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: data: 0" and lines[-1] == "warning: 11 more: srt check lists them" and len(lines) == 10


class GatedHub(Hub):
    """A hub with a gated, an open and no other repository."""

    def _find(self) -> tuple[int, dict[str, str], bytes]:
        if "lab/gated" in self.path:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if self.path.endswith("lab/sums/auth-check"):
            return 200, {}, b"{}"
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def hub_findings(folder: Path, monkeypatch: Any, address: str, repo: str) -> list[preflight.Finding]:
    write(folder)
    change(folder, DATASETS, "openai/gsm8k", repo)
    change(folder, DATASETS, "e53f048856ff4f594e959d75785d2c2d37b678ee", NEW)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return list(preflight.hub(load(folder), ["far_test", "sums"], ["tiny"]))


@pytest.mark.parametrize(
    ("repo", "good", "text"),
    [
        ("lab/gated", False, "gated, so accept the terms on the hub and set HF_TOKEN: far_test (lab/gated)"),
        ("lab/none", False, "not on the hub, or private, so correct `repo` or set HF_TOKEN: far_test (lab/none)"),
        ("lab/sums", True, "not in the cache, can be downloaded: far_test (lab/sums)"),
    ],
)
def test_repositories_that_need_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: str, good: bool, text: str
) -> None:
    with serve(GatedHub) as (address, _):
        found = hub_findings(tmp_path, monkeypatch, address, repo)
    assert found == [preflight.Finding("hub", good, text)]


def test_without_a_connection_only_offline_mode_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = hub_findings(tmp_path, monkeypatch, "http://127.0.0.1:9", "lab/sums")
    assert found.good and found.text.startswith("not in the cache, and the hub does not answer")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (found,) = preflight.hub(load(tmp_path), ["far_test"], [])
    assert not found.good and "HF_HUB_OFFLINE" in found.text


def test_the_version_of_a_package_is_the_one_that_import_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "pyarrow-1.0.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: pyarrow\nVersion: 1.0.0\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert [finding.text for finding in preflight.versions(ROOT) if not finding.good] == []


def test_space(tmp_path: Path) -> None:
    write(tmp_path)
    config = load(tmp_path)
    assert preflight.space(config, 1.0).good
    found = preflight.space(config, 1e18)
    assert not found.good and found.text.endswith("GB are free: free space, or change the key results")
    need = needs(config)
    assert need.disk_bytes > 0 and need.gpus == 0  # the runs are on the tiny model
    change(tmp_path, MODELS, "source: tiny", "source: tiny\n  gpus_train: 2")
    assert needs(load(tmp_path)).gpus == 2


def program(folder: Path, name: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program that prints `output` first on the PATH."""
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpus_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "nvidia-smi", "GPU 0: H200 (UUID: a)\nGPU 1: H200 (UUID: b)", monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert preflight.gpus(2).good and not preflight.gpus(3).good
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert preflight.gpus(2).text == (
        "jobs ask for up to 2, this machine has 1: use a machine that has them, or --profile slurm"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not preflight.gpus(1).good and preflight.gpus(0).good


def test_partitions_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ClusterLimits(gpus_per_node=8, partitions={"cpu": Partition(), "h200": Partition(gpus=4)})
    program(tmp_path, "sinfo", "cpu\nh200", monkeypatch)
    assert [f.good for f in preflight.partitions(limits, 4)] == [True]
    (found,) = preflight.partitions(limits, 8)
    assert found.text == "no partition of partitions.yaml has max_gpu 8 or more: correct it"
    program(tmp_path, "sinfo", "cpu\ngpu", monkeypatch)
    (found,) = preflight.partitions(limits, 4)
    assert found.text == "no partition h200 (SLURM has cpu, gpu): correct partitions.yaml"
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (found,) = preflight.partitions(limits, 4)
    assert not found.good and found.text.startswith("sinfo does not answer")
