"""Fixtures of all tests; tests whose requirement is absent are skipped, and counted at the end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from support import ROOT
from support.dag import MICRO, copy_of_the_tree, snakemake
from support.requirements import REQUIREMENTS
from support.specs import TINY_BASE

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends the tests as Ctrl-C does: what failed so far is still printed. CI sends it at its time limit."""
    if not hasattr(config, "workerinput"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """A test on a Snakemake run of this session is slow; files with many slow tests come first.

    The order lets pytest-xdist's workers end together, with `--no-loadscope-reorder`.
    """
    for item in items:
        if {"micro_run", "full_plan"} & set(item.fixturenames):
            item.add_marker("slow")
    slow = Counter(item.path for item in items for name in ("slow", "slurm", "vllm") if item.get_closest_marker(name))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here before its fixtures are made."""
    for name, requirement in REQUIREMENTS.items():
        if item.get_closest_marker(name) and not requirement.there():
            pytest.skip(requirement.reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each reason to skip, with the number of its tests."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data sets beside the repository; the test skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, made by the first of pytest-xdist's workers that needs it; the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(name) / name
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, trained for a few seconds: enough to write boxes, too little to be right."""
    from srt.models.base_models import make

    return once(tmp_path_factory, "tiny_base", lambda folder: make("tiny", TINY_BASE, folder))


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A problem table of 24 sums of two digits."""
    from srt.config.datasets import parse_dataset
    from srt.data import load, write_problems

    params = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    entry = {"source": "reasoning_gym", "name": "chain_sum", "params": params, "size": 24, "split": "train", "seed": 3}
    out = tmp_path_factory.mktemp("data") / "sums.parquet"
    write_problems(out, load(parse_dataset("sums", entry), "sums"), "sums")
    return out


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which the micro DAG has run, shared by all workers: copy it before you change it."""
    return once(tmp_path_factory, "micro_run", lambda folder: snakemake(copy_of_the_tree(folder), *MICRO))


@pytest.fixture(scope="session")
def full_plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `snakemake --profile slurm -n --quiet host`, the plan of the full matrix, prints in a fresh clone."""

    def plan(folder: Path) -> None:
        output = snakemake(copy_of_the_tree(folder), "--profile", "slurm", "-n", "--quiet", "host")
        assert {path.name for path in (folder / "results").glob("*/")} <= {"reference"}, "a dry-run makes no results"
        (folder / "plan.txt").write_text(output, encoding="utf-8")

    return (once(tmp_path_factory, "full_plan", plan) / "plan.txt").read_text(encoding="utf-8")
