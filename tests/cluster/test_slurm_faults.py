"""Each fault of docs/cluster.md on a real SLURM: the results of the undisturbed run, and no step trained twice."""

from __future__ import annotations

import shutil
import time

import pytest

from support.slurm_cluster import Cluster, can_limit_memory
from support.slurm_faults import FAULTS, IN_A_ROW, STEPS, TARGET, execute, local, outputs, prepare

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster():
    with Cluster(memory_limits=can_limit_memory(), kill_wait=2) as own:
        yield own


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared") / "clone")


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """The results without SLURM and without faults."""
    folder = tmp_path_factory.mktemp("undisturbed") / "clone"
    shutil.copytree(prepared, folder, symlinks=True)
    local(folder, TARGET)
    return outputs(folder)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("in_a_row", IN_A_ROW),
        *(pytest.param(n, f, marks=[pytest.mark.long] if f.long else []) for n, f in FAULTS.items()),
    ],
)
def test_a_fault_costs_no_result(name, fault, cluster, prepared, undisturbed, tmp_path):
    if reason := fault.skip():
        pytest.skip(reason)
    began = time.monotonic()
    run = execute(cluster, prepared, tmp_path / "clone", fault)
    print(f"{name}: {time.monotonic() - began:.0f} s, lost {run.seconds_lost():.0f} s, repeated {run.repeated()}")
    assert outputs(run.folder) == undisturbed
    assert sorted({x["step"] for x in run.journal("step")}) == list(range(1, STEPS + 1))
    assert len(run.repeated()) <= fault.may_repeat
    starts = run.journal("start")
    assert len(starts) == fault.attempts, starts
    assert starts[0]["step"] == 0 and all(x["step"] >= 1 for x in starts[1:])
