"""Jobs that are submitted together: `--groups` and `--group-components`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt.workflow.grouping import _longest, _packs, joining_one_level
from support.dag import copy_of_the_tree, snakemake


class Group:
    """What Snakemake's GroupJob has."""

    def __init__(self, jobs: Iterable[int]) -> None:
        self.groupid, self.jobs, self.final = "g", set(jobs), False

    def merge(self, other: Group) -> None:
        self.jobs = self.jobs | other.jobs

    def finalize(self) -> None:
        self.final = True


def unused(dag: object) -> None:
    raise AssertionError("Snakemake's own function is called for a group that waits for itself only")


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30),
    st.sets(st.integers(0, 11)),
    st.integers(1, 5),
)
def test_joined_components_never_wait_for_each_other(
    arrows: list[tuple[int, int]], grouped: set[int], size: int
) -> None:
    """Any DAG, any jobs in the group, each a component of its own."""
    needs = {job: {low for low, high in arrows if high == job and low < high} for job in range(12)}
    dag = SimpleNamespace(
        jobs=needs.keys(),
        _dependencies=needs,
        _group={job: Group([job]) for job in grouped},
        workflow=SimpleNamespace(group_settings=SimpleNamespace(group_components={"g": size}), parent_groupids={}),
    )
    joining_one_level(unused, Path())(dag)
    assert dag._group.keys() == grouped
    assert all(job in group.jobs and len(group.jobs) <= size and group.final for job, group in dag._group.items())
    unit = {job: id(dag._group.get(job, needs[job])) for job in needs}
    waits: dict[int, set[int]] = {each: set() for each in unit.values()}
    for job, needed in needs.items():
        assert not any(unit[job] == unit[each] for each in needed)
        waits[unit[job]] |= {unit[each] for each in needed}
    assert len(list(TopologicalSorter(waits).static_order())) == len(waits)  # no circle
    if not any(needs.values()):  # all of one level: as few groups as fit
        assert len({id(group) for group in dag._group.values()}) == -(-len(grouped) // size)


@pytest.mark.slow
def test_any_rules_are_grouped(tmp_path: Path) -> None:
    """Training with sampling, whose GPUs are counted alike, and several components at once."""
    groups = ["sample=g", "score=g", "train=g", "train_last=g", "--group-components", "g=4"]
    output = snakemake(
        copy_of_the_tree(tmp_path), "--profile", "slurm", "--configfile", "tests/micro/config.yaml", "-n",
        "--quiet", "host", "--groups", *groups,
    )  # fmt: skip
    found = [set(re.findall(r"Sample (\S+ on \S+)|Train (\S+)", part)) for part in output.split("Group job g")[1:]]
    assert {("base/micro on tests", ""), ("base/micro on sums", "")} in [
        {pair for pair in part if "base" in pair[0]} for part in found
    ]
    assert any(("", "gt-s1/step-2") in part and ("gt-s1/step-4 on tests", "") in part for part in found)


class Timed(Group):
    """A component of one job with these resources."""

    def __init__(self, gpu: int, runtime: int, mem_mb: int = 1000) -> None:
        super().__init__([])
        self.jobs = [SimpleNamespace(resources={"gpu": gpu, "runtime": runtime, "mem_mb": mem_mb})]


def test_a_pack_whose_members_take_turns_fits_into_a_partition() -> None:
    hours = [(0, 600), (0, 600), (1, 1000), (0, 600), (1, 1000), (0, 60), (0, 2000)]
    limits = {0: 1440.0, 1: 4320.0}
    packs = _packs([Timed(*each) for each in hours], 3, lambda gpus: limits[gpus])
    sizes = [[group.jobs[0].resources["runtime"] for group in pack] for pack in packs]
    assert sizes == [[600, 600], [600, 60], [2000], [1000, 1000]]  # a job that is too long itself stays as it is
    mixed = _packs([Timed(0, 1), Timed(0, 1, mem_mb=9000), Timed(0, 1)], 3, lambda gpus: 10.0)
    assert [len(pack) for pack in mixed] == [2, 1]  # small ones do not ask for the memory of a large one


def test_the_limit_is_that_of_partitions_yaml_and_only_for_members_that_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "workflow/profiles/slurm/partitions.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("partitions: {cpu: {max_runtime: 2h}, gpu: {max_runtime: 1d, max_gpu: 8}}\n")
    one = {"nodes": SimpleNamespace(value=1)}
    longest = _longest(SimpleNamespace(global_resources=one, basedir=str(tmp_path)))
    assert longest is not None and (longest(0), longest(1)) == (120, 1440)
    assert _longest(SimpleNamespace(global_resources={}, basedir=str(tmp_path))) is None
