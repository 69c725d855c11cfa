"""Budgets: refused before a job starts, kept while jobs run."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from srt.common.errors import SrtError
from srt.config import Config, load_config, read_yaml
from srt.plan.budget import Budget, Watch
from srt.plan.jobs import build
from support import ROOT
from support.dag import MICRO, copy_of_the_tree, snakemake


def micro(folder: Path, **changes: object) -> Config:
    file = "tests/micro/config.yaml"
    return load_config(read_yaml(ROOT / file) | {"results": str(folder / "results")} | changes, ROOT, file)


def on_gpus(folder: Path, **changes: object) -> tuple[Config, str, list[str]]:
    """The micro configuration with a GPU per training job; a training job's benchmark file; all outputs."""
    config = micro(folder, **changes)
    runs = {name: run.model_copy(update={"gpus": 1}) for name, run in config.runs.items()}
    config = config.model_copy(update={"runs": runs})
    dag = build(config)
    file = next(job.benchmark for job in dag.jobs.values() if job.rule == "train" and job.benchmark)
    return config, file, [path for job in dag.jobs.values() for path in job.outputs]


def spend(file: str, hours: float) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\tcpu_time\tmax_pss\n{hours * 3600}\t1\t1\n", encoding="utf-8")


def test_gpu_hours_are_refused_before_and_counted_while_jobs_run(tmp_path: Path) -> None:
    config, file, outputs = on_gpus(tmp_path, max_gpu_hours=0.001)
    with pytest.raises(
        SrtError, match=r"max_gpu_hours: 0\.001 is the budget, 0 are used and the planned jobs need about"
    ):
        Budget(config).refuse(outputs)
    budget = Budget(config.model_copy(update={"max_gpu_hours": 2.0}))
    budget.refuse([])
    assert budget.reached() is None
    spend(file, 2.5)
    assert budget.gpu_hours() == pytest.approx(2.5)
    assert "max_gpu_hours: 2.5 of 2 are used: no further job is started" in budget.reached()
    with pytest.raises(SrtError, match=r"2\.5 are used and the planned jobs need about 0 more: raise it"):
        budget.refuse([])


def test_disk_is_refused_before_and_counted_while_jobs_run(tmp_path: Path) -> None:
    config, _, outputs = on_gpus(tmp_path, max_disk_gb=1e-6)
    with pytest.raises(SrtError, match="max_disk_gb: 1e-06 is the budget, 0 are used"):
        Budget(config).refuse(outputs)
    results = tmp_path / "results"
    results.mkdir()
    (results / "a").write_bytes(b"x" * 2000)
    os.link(results / "a", results / "b")
    assert Budget(config).disk_gb() == 2e-6 and "max_disk_gb: 2e-06 of 1e-06 are used" in Budget(config).reached()
    Budget(micro(tmp_path)).refuse(outputs)
    assert Budget(micro(tmp_path)).reached() is None


def test_the_watch_tells_snakemake_once(tmp_path: Path) -> None:
    config, file, _ = on_gpus(tmp_path, max_gpu_hours=1.0)
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        watch = Watch(Budget(config), every=0.01)
        watch.start()
        assert not told.is_set()
        spend(file, 1.5)
        watch.join(60)
        assert told.wait(60) and not watch.is_alive()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_workflow_beyond_its_budget_does_not_start(tmp_path: Path) -> None:
    folder = copy_of_the_tree(tmp_path)
    output = snakemake(folder, *MICRO, "--config", "max_disk_gb=1e-6", code=1)
    assert "error: max_disk_gb: 1e-06 is the budget" in output and "Traceback" not in output
    assert not (folder / "results/micro/data").exists()
