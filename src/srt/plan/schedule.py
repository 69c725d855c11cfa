"""Wall time and disk: critical path, a list schedule on P partitions, and the bytes on disk along it.

A partition has a number of GPUs, and a job that fits on one is not spread over two. Jobs without a GPU run at once as
soon as their inputs are there: they are short, and a CPU partition has room.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from srt.plan.jobs import Dag
from srt.plan.price import Price


@dataclass(frozen=True)
class Schedule:
    """One list schedule. `wall`, `lower` (no schedule is shorter), `start` of each job: seconds; `peak`: bytes."""

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
    """Run the jobs in the order of their critical paths, each as soon as its inputs and its GPUs are there.

    If the first in line does not fit, the partition that will be free for it first is kept for it. A job of more GPUs
    than a partition has takes whole partitions; of more than there are, all (and is then too slow by that much, which
    `srt.plan.tables` says). `disk`: bytes that are there before.
    """
    tail = critical_path(dag, prices, remaining)
    waiting = {key: sum(parent in remaining for parent in dag.parents(key)) for key in remaining}
    children: dict[str, list[str]] = {}
    for key in remaining:
        for parent in dag.parents(key):
            children.setdefault(parent, []).append(key)
    number = itertools.count()
    waits: list[tuple[float, int, str]] = []  # for GPUs, the longest path first
    free = [gpus] * partitions
    running: list[tuple[float, int, str, list[int]]] = []
    start: dict[str, float] = {}
    books = _Disk(dag, prices, remaining, disk)
    now = 0.0

    def begin(key: str, place: list[tuple[int, int]]) -> None:
        for partition, share in place:
            free[partition] -= share
        start[key] = now
        books.begin(key)
        taken = [partition for partition, share in place for _ in range(share)]
        heapq.heappush(running, (now + prices[key].seconds, next(number), key, taken))

    def enter(key: str) -> None:
        if prices[key].gpus:
            heapq.heappush(waits, (-tail[key], next(number), key))
        else:
            begin(key, [])

    for key in sorted(remaining):
        if not waiting[key]:
            enter(key)
    while waits or running:
        held: set[int] = set()
        passed = []
        while waits and any(free) and len(held) < partitions:
            item = heapq.heappop(waits)
            wanted = min(prices[item[2]].gpus, gpus * partitions)
            place = _place(free, wanted, gpus, held)
            if place is not None:
                begin(item[2], place)
                continue
            passed.append(item)  # later ones may go round it, but not on the partitions that it waits for
            held |= set(_soonest(running, free, wanted, gpus, held))
        for item in passed:
            heapq.heappush(waits, item)
        now, _, key, taken = heapq.heappop(running)
        for partition in taken:
            free[partition] += 1
        books.end(key)
        for child in children.get(key, ()):
            waiting[child] -= 1
            if not waiting[child]:
                enter(child)
    capacity = gpus * partitions
    work = sum(min(prices[key].gpus, capacity) * prices[key].seconds for key in sorted(remaining))
    lower = max(max(tail.values(), default=0.0), work / capacity)
    return Schedule(partitions, now, lower, books.peak, start)


def _place(free: list[int], wanted: int, gpus: int, held: set[int]) -> list[tuple[int, int]] | None:
    """Where a job fits now: [(partition, GPUs)], the fullest that has room; None if nowhere."""
    if wanted == 0:
        return []
    if wanted <= gpus:
        fit = [(room, i) for i, room in enumerate(free) if room >= wanted and i not in held]
        return [(min(fit)[1], wanted)] if fit else None
    whole = [i for i, room in enumerate(free) if room == gpus and i not in held][: -(-wanted // gpus)]
    return [(i, gpus) for i in whole] if len(whole) * gpus >= wanted else None


def _soonest(
    running: list[tuple[float, int, str, list[int]]], free: list[int], wanted: int, gpus: int, held: set[int]
) -> list[int]:
    """The partitions that will have room for a job first."""
    room = list(free)
    many = -(-wanted // gpus)
    least = min(wanted, gpus)
    found = [i for i in range(len(free)) if room[i] >= least and i not in held]
    for _, _, _, taken in sorted(running):
        if len(found) >= many:
            break
        for partition in taken:
            room[partition] += 1
        found = [i for i in range(len(free)) if room[i] >= least and i not in held]
    return found[:many]


class _Disk:
    """Bytes on disk while jobs run."""

    def __init__(self, dag: Dag, prices: Mapping[str, Price], remaining: set[str], before: float) -> None:
        self.dag, self.prices, self.now, self.peak = dag, prices, before, before
        # temporary outputs go when the last job that reads them is done
        self.readers: dict[str, int] = {}
        for key in remaining:
            for parent in self.dag.temporary(key):
                self.readers[parent] = self.readers.get(parent, 0) + 1

    def begin(self, key: str) -> None:
        """A job starts to write."""
        self.now += max(self.prices[key].work, self.prices[key].final + self.prices[key].temp)
        self.peak = max(self.peak, self.now)

    def end(self, key: str) -> None:
        """A job's outputs stay, what it worked with goes, and so do temporary files that it was the last to read."""
        price = self.prices[key]
        self.now += price.final + price.temp - max(price.work, price.final + price.temp)
        for parent in self.dag.temporary(key):
            self.readers[parent] -= 1
            if not self.readers[parent]:
                self.now -= self.prices[parent].temp
