"""Jobs that `--group-components` puts into one submission: only such that do not depend on each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from srt.cluster.partitions import PARTITIONS_FILE, read_cluster_limits


def joining_one_level(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`DAG._update_group_components` that joins only components of one level of the DAG.

    Snakemake joins components of a group in any order. Scores of a base model and of a checkpoint that is trained on
    its labels may then be one job, which would wait for itself, and Snakemake refuses. The level of a component is the
    number of jobs or components on the longest way to it. Those of one level do not depend on each other, and joining
    them makes no new way to a lower level.
    """

    def update_group_components(dag: Any) -> None:
        components = list({id(group): group for group in dag._group.values()}.values())
        size = dag.workflow.group_settings.group_components
        parents = dag.workflow.parent_groupids
        wanted = {group.groupid: size.get(parents.get(group.groupid, group.groupid), 1) for group in components}
        if max(wanted.values(), default=1) > 1:
            try:
                level = _levels(dag)
            except CycleError:  # a component that waits for itself: Snakemake says so
                original(dag)
                return
            alike = defaultdict(list)
            for group in components:
                alike[group.groupid, level[id(group)]].append(group)
            for (groupid, _), groups in alike.items():
                for first, *others in _packs(groups, wanted[groupid], _longest(dag.workflow)):
                    for other in others:
                        first.merge(other)
                    dag._group.update(dict.fromkeys(first.jobs, first))
        for group in dag._group.values():
            group.finalize()

    return update_group_components


def _packs(groups: list[Any], size: int, longest: Callable[[int], float] | None) -> list[list[Any]]:
    """Components in packs of at most `size`, whose times add up to at most what `longest` says for their GPUs."""
    if longest is None:
        return [groups[start : start + size] for start in range(0, len(groups), size)]
    packs: dict[tuple[int, float], list[list[Any]]] = {}
    room: dict[tuple[int, float], float] = {}
    for group in groups:
        gpus = max(int(job.resources.get("gpu", 0)) for job in group.jobs)
        minutes = sum(float(job.resources.get("runtime", 0)) for job in group.jobs)
        alike = gpus, max(float(job.resources.get("mem_mb", 0)) for job in group.jobs)  # no large one among small ones
        if alike not in packs or len(packs[alike][-1]) == size or minutes > room[alike]:
            packs.setdefault(alike, []).append([])
            room[alike] = longest(gpus)
        packs[alike][-1].append(group)
        room[alike] -= minutes
    return [pack for each in packs.values() for pack in each]


def _longest(workflow: Any) -> Callable[[int], float] | None:
    """The minutes that a job of some GPUs may take, if components take turns: a limit of one node per submission."""
    resources = getattr(workflow, "global_resources", {})
    if "nodes" not in resources or resources["nodes"].value != 1:
        return None
    limits = read_cluster_limits(Path(workflow.basedir) / PARTITIONS_FILE)
    return lambda gpus: limits.limits_for(gpus).minutes


def _levels(dag: Any) -> dict[int, int]:
    """The level of each job or component, by its `id`."""
    unit = {job: id(dag._group.get(job, job)) for job in dag.jobs}
    below: dict[int, set[int]] = {each: set() for each in unit.values()}
    for job, each in unit.items():
        below[each] |= {unit[needed] for needed in dag._dependencies[job] if needed in unit} - {each}
    level: dict[int, int] = {}
    for each in TopologicalSorter(below).static_order():
        level[each] = 1 + max((level[other] for other in below[each]), default=0)
    return level
