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

    With `keep_models: needed`, samples of models that are then deleted go before all others.

    Where the job with the longest path does not fit, the partition that will have room for it first is reserved for it.
    A job of more GPUs than a partition has takes whole partitions. One of more GPUs than there are takes all, and its
    time is then too short, which `srt.plan.text` reports.

    Args:
        remaining: keys of the jobs to run; all others are done.
        partitions, gpus: number of partitions, and of GPUs in each.
        disk: bytes that are on the disk at the start.
    """
    simulation = _Simulation(dag, prices, remaining, _Partitions(partitions, gpus), disk)
    simulation.run()
    capacity = gpus * partitions
    work = sum(min(prices[key].gpus, capacity) * prices[key].seconds for key in sorted(remaining))
    lower = max(max(simulation.tail.values(), default=0.0), work / capacity)
    return Schedule(partitions, simulation.now, lower, simulation.disk.peak, simulation.start)


class _Simulation:
    """One pass through the schedule: the time moves from the end of one job to that of the next."""

    def __init__(
        self, dag: Dag, prices: Mapping[str, Price], remaining: set[str], partitions: _Partitions, disk: float
    ) -> None:
        self.prices, self.remaining, self.partitions = prices, remaining, partitions
        self.tail = critical_path(dag, prices, remaining)
        self.disk = _Disk(dag, prices, remaining, disk)
        self.now = 0.0
        self.start: dict[str, float] = {}
        self.missing = {key: sum(parent in remaining for parent in dag.parents(key)) for key in remaining}  # inputs
        self.children: dict[str, list[str]] = {}
        for key in sorted(remaining):  # the order of a set differs from process to process
            for parent in dag.parents(key):
                self.children.setdefault(parent, []).append(key)
        # jobs that wait for GPUs: samples whose model then goes first (as rules/sample.smk), then the longest path
        self._ready: list[tuple[bool, float, int, str]] = []
        self._frees = {key for key in remaining if dag.jobs[key].rule == "sample" and dag.temporary(key)}
        self._number = itertools.count()  # of equally long paths the one that was ready first

    def run(self) -> None:
        """Run all jobs."""
        for key in sorted(self.remaining):
            if not self.missing[key]:
                self._enter(key)
        while self._ready or self.partitions.running:
            self._start_ready()
            self.now, key = self.partitions.end_next()
            self.disk.end(key)
            for child in self.children.get(key, ()):
                self.missing[child] -= 1
                if not self.missing[child]:
                    self._enter(child)

    def _enter(self, key: str) -> None:
        """A job has all inputs: a job without GPUs starts, any other waits for its turn."""
        if self.prices[key].gpus:
            heapq.heappush(self._ready, (key not in self._frees, -self.tail[key], next(self._number), key))
        else:
            self._begin(key, [])

    def _begin(self, key: str, room: list[tuple[int, int]]) -> None:
        self.start[key] = self.now
        self.disk.begin(key)
        self.partitions.begin(key, self.now + self.prices[key].seconds, room)

    def _start_ready(self) -> None:
        """Start the jobs that fit now, and reserve partitions for those with longer paths that do not."""
        partitions, reserved, passed = self.partitions, set[int](), []
        while self._ready and any(partitions.free) and len(reserved) < len(partitions.free):
            item = heapq.heappop(self._ready)
            wanted = min(self.prices[item[-1]].gpus, partitions.gpus * len(partitions.free))
            room = partitions.room(wanted, reserved)
            if room is not None:
                self._begin(item[-1], room)
                continue
            passed.append(item)  # later jobs may start before it, but not on the partitions that it waits for
            reserved |= set(partitions.first_to_be_free(wanted, reserved))
        for item in passed:
            heapq.heappush(self._ready, item)


class _Partitions:
    """Partitions of `gpus` GPUs each, and the jobs that run on them."""

    def __init__(self, count: int, gpus: int) -> None:
        self.gpus = gpus
        self.free = [gpus] * count
        self.running: list[tuple[float, int, str, list[int]]] = []  # end, number, key, the partition of each GPU
        self._number = itertools.count()  # of jobs that end together the one that began first

    def begin(self, key: str, end: float, room: list[tuple[int, int]]) -> None:
        """A job takes its room until `end`."""
        for partition, share in room:
            self.free[partition] -= share
        taken = [partition for partition, share in room for _ in range(share)]
        heapq.heappush(self.running, (end, next(self._number), key, taken))

    def end_next(self) -> tuple[float, str]:
        """The job that ends first gives its GPUs back; returns when, and its key."""
        end, _, key, taken = heapq.heappop(self.running)
        for partition in taken:
            self.free[partition] += 1
        return end, key

    def room(self, wanted: int, reserved: set[int]) -> list[tuple[int, int]] | None:
        """Where a job of `wanted` GPUs fits now, as [(partition, GPUs)]; None if nowhere.

        Of the partitions with room it takes the fullest, or as many empty ones as it needs.
        """
        if wanted <= self.gpus:
            fit = [(room, i) for i, room in enumerate(self.free) if room >= wanted and i not in reserved]
            return [(min(fit)[1], wanted)] if fit else None
        whole = [i for i, room in enumerate(self.free) if room == self.gpus and i not in reserved]
        whole = whole[: -(-wanted // self.gpus)]
        return [(i, self.gpus) for i in whole] if len(whole) * self.gpus >= wanted else None

    def first_to_be_free(self, wanted: int, reserved: set[int]) -> list[int]:
        """The partitions that will have room for a job of `wanted` GPUs first."""
        room = list(self.free)
        many, least = -(-wanted // self.gpus), min(wanted, self.gpus)
        found = [i for i in range(len(room)) if room[i] >= least and i not in reserved]
        for _, _, _, taken in sorted(self.running):
            if len(found) >= many:
                break
            for partition in taken:
                room[partition] += 1
            found = [i for i in range(len(room)) if room[i] >= least and i not in reserved]
        return found[:many]


class _Disk:
    """Bytes on disk while jobs run."""

    def __init__(self, dag: Dag, prices: Mapping[str, Price], remaining: set[str], at_start: float) -> None:
        self.dag, self.prices = dag, prices
        # temporary outputs, those of earlier jobs too, are deleted when the last job that reads them ends
        self.readers = Counter(file for key in remaining for file in dag.temporary(key))
        self.now = at_start + sum(prices[parent].temp[i] for parent, i in self.readers if parent not in remaining)
        self.peak = self.now

    def begin(self, key: str) -> None:
        """A job starts to write."""
        self.now += max(self.prices[key].work, self.prices[key].final + sum(self.prices[key].temp))
        self.peak = max(self.peak, self.now)

    def end(self, key: str) -> None:
        """A job ends: its outputs stay, its working files go, and so do temporary files that no other job will read."""
        price = self.prices[key]
        made = price.final + sum(price.temp)
        self.now += made - max(price.work, made)
        for parent, i in self.dag.temporary(key):
            self.readers[parent, i] -= 1
            if not self.readers[parent, i]:
                self.now -= self.prices[parent].temp[i]
