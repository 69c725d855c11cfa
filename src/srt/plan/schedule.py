"""Wall time on P partitions: a list schedule in the order of the critical paths, and the bytes on disk along it.

A partition has a number of GPUs, and a job that fits on one partition is not spread over two. Jobs without a GPU start
as soon as their inputs exist: they are short, and a CPU partition has room for them.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from srt.plan.jobs import Dag
from srt.plan.price import Price


@dataclass(frozen=True)
class Schedule:
    """A list schedule.

    wall: its seconds. lower: seconds that no schedule can be shorter than. peak: the most bytes on disk at a time.
    start: seconds at which each job starts.
    """

    partitions: int
    wall: float
    lower: float
    peak: float
    start: dict[str, float]


def critical_path(dag: Dag, prices: Mapping[str, Price], remaining: set[str]) -> dict[str, float]:
    """Seconds from the start of each remaining job to the end of everything that follows from it."""
    tail: dict[str, float] = {}
    longest_child: dict[str, float] = {}
    for key in reversed(dag.order()):
        if key not in remaining:
            continue
        tail[key] = prices[key].seconds + longest_child.get(key, 0.0)
        for parent in dag.parents(key):
            longest_child[parent] = max(longest_child.get(parent, 0.0), tail[key])
    return tail


def schedule(
    dag: Dag, prices: Mapping[str, Price], remaining: set[str], partitions: int, gpus: int, disk: float = 0.0
) -> Schedule:
    """Run the jobs in the order of their critical paths, each as soon as it has its inputs and GPUs.

    Where the job with the longest path does not fit, the partition that will have room for it first is reserved for it.
    A job of more GPUs than a partition has takes whole partitions. One of more GPUs than there are takes all, and its
    time is then too short, which `srt.plan.text` reports.

    Args:
        remaining: keys of the jobs to run; all others are done.
        partitions, gpus: number of partitions, and of GPUs in each.
        disk: bytes that are on the disk at the start.
    """
    tail = critical_path(dag, prices, remaining)
    missing = {key: sum(parent in remaining for parent in dag.parents(key)) for key in remaining}  # inputs
    children: dict[str, list[str]] = {}
    for key in remaining:
        for parent in dag.parents(key):
            children.setdefault(parent, []).append(key)
    number = itertools.count()
    ready: list[tuple[float, int, str]] = []  # jobs that wait for GPUs, the longest path first
    free = [gpus] * partitions
    running: list[tuple[float, int, str, list[int]]] = []
    start: dict[str, float] = {}
    on_disk = _Disk(dag, prices, remaining, disk)
    now = 0.0

    def begin(key: str, room: list[tuple[int, int]]) -> None:
        for partition, share in room:
            free[partition] -= share
        start[key] = now
        on_disk.begin(key)
        taken = [partition for partition, share in room for _ in range(share)]
        heapq.heappush(running, (now + prices[key].seconds, next(number), key, taken))

    def enter(key: str) -> None:
        if prices[key].gpus:
            heapq.heappush(ready, (-tail[key], next(number), key))
        else:
            begin(key, [])

    for key in sorted(remaining):
        if not missing[key]:
            enter(key)
    while ready or running:
        reserved: set[int] = set()
        passed = []
        while ready and any(free) and len(reserved) < partitions:
            item = heapq.heappop(ready)
            wanted = min(prices[item[2]].gpus, gpus * partitions)
            room = _room(free, wanted, gpus, reserved)
            if room is not None:
                begin(item[2], room)
                continue
            passed.append(item)  # later jobs may start before it, but not on the partitions that it waits for
            reserved |= set(_first_to_be_free(running, free, wanted, gpus, reserved))
        for item in passed:
            heapq.heappush(ready, item)
        now, _, key, taken = heapq.heappop(running)
        for partition in taken:
            free[partition] += 1
        on_disk.end(key)
        for child in children.get(key, ()):
            missing[child] -= 1
            if not missing[child]:
                enter(child)
    capacity = gpus * partitions
    work = sum(min(prices[key].gpus, capacity) * prices[key].seconds for key in sorted(remaining))
    lower = max(max(tail.values(), default=0.0), work / capacity)
    return Schedule(partitions, now, lower, on_disk.peak, start)


def _room(free: list[int], wanted: int, gpus: int, reserved: set[int]) -> list[tuple[int, int]] | None:
    """Where a job of `wanted` GPUs fits now, as [(partition, GPUs)]; None if nowhere.

    Of the partitions with room it takes the fullest, or as many empty ones as it needs.
    """
    if wanted <= gpus:
        fit = [(room, i) for i, room in enumerate(free) if room >= wanted and i not in reserved]
        return [(min(fit)[1], wanted)] if fit else None
    whole = [i for i, room in enumerate(free) if room == gpus and i not in reserved][: -(-wanted // gpus)]
    return [(i, gpus) for i in whole] if len(whole) * gpus >= wanted else None


def _first_to_be_free(
    running: list[tuple[float, int, str, list[int]]], free: list[int], wanted: int, gpus: int, reserved: set[int]
) -> list[int]:
    """The partitions that will have room for a job of `wanted` GPUs first."""
    room = list(free)
    many = -(-wanted // gpus)
    least = min(wanted, gpus)
    found = [i for i in range(len(free)) if room[i] >= least and i not in reserved]
    for _, _, _, taken in sorted(running):
        if len(found) >= many:
            break
        for partition in taken:
            room[partition] += 1
        found = [i for i in range(len(free)) if room[i] >= least and i not in reserved]
    return found[:many]


class _Disk:
    """Bytes on disk while jobs run."""

    def __init__(self, dag: Dag, prices: Mapping[str, Price], remaining: set[str], at_start: float) -> None:
        self.dag, self.prices = dag, prices
        # temporary outputs, those of earlier jobs too, are deleted when the last job that reads them ends
        self.readers = Counter(parent for key in remaining for parent in dag.temporary(key))
        self.now = at_start + sum(prices[parent].temp for parent in self.readers if parent not in remaining)
        self.peak = self.now

    def begin(self, key: str) -> None:
        """A job starts to write."""
        self.now += max(self.prices[key].work, self.prices[key].final + self.prices[key].temp)
        self.peak = max(self.peak, self.now)

    def end(self, key: str) -> None:
        """A job's outputs stay; what it worked with goes, and so do temporary files that it was the last to read."""
        price = self.prices[key]
        self.now += price.final + price.temp - max(price.work, price.final + price.temp)
        for parent in self.dag.temporary(key):
            self.readers[parent] -= 1
            if not self.readers[parent]:
                self.now -= self.prices[parent].temp
