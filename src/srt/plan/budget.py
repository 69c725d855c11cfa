"""Budgets of a results folder: GPU-hours and disk, refused before the first job and kept while jobs run.

GPU-hours of finished jobs are their measured times (`srt.plan.spent`); an attempt that was killed is not among them,
nor is a job that still runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from srt.common.errors import SrtError
from srt.config.root import Config
from srt.plan.jobs import GPU_RULES, build
from srt.plan.measured import measure, read_benchmark
from srt.plan.price import Pricing
from srt.plan.schedule import schedule

EVERY = 60.0  # seconds between two looks of the watch


class Budget:
    """The budget of a configuration: `max_gpu_hours`, `max_disk_gb`; None where there is no limit."""

    def __init__(self, config: Config) -> None:
        self.config, self.dag = config, build(config)
        self.pricing = Pricing(config, self.dag, measure(config, self.dag))
        self._gpus = {
            job.benchmark: self.pricing.price(key).gpus
            for key, job in self.dag.jobs.items()
            if job.rule in GPU_RULES and job.benchmark
        }

    def gpu_hours(self) -> float:
        """GPU-hours of finished jobs."""
        found = ((gpus, read_benchmark(path)) for path, gpus in self._gpus.items())
        return sum(gpus * times["s"] / 3600 for gpus, times in found if times)

    def disk_gb(self) -> float:
        """What the results folder holds, in GB; files with several names count once."""
        sizes: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.config.results):
            for name in names:
                try:
                    status = Path(folder, name).lstat()
                except FileNotFoundError:  # a temporary file of a job
                    continue
                sizes[status.st_dev, status.st_ino] = status.st_size
        return sum(sizes.values()) / 1e9

    def refuse(self, outputs: Iterable[str]) -> None:
        """Refuse jobs that would go beyond the budget.

        Args:
            outputs: files that Snakemake plans to make.

        Raises:
            SrtError: one sentence with the budget, what is used and what the jobs need by the plan.
        """
        config, rates = self.config, self.config.plan
        prices = {key: self.pricing.price(key) for key in self.dag.jobs}
        planned = {self.dag.maker[path] for path in outputs if path in self.dag.maker}
        more = sum(prices[key].gpu_hours for key in planned)
        again = (self.dag.jobs[key].benchmark for key in planned)
        kept = self.gpu_hours() - sum(
            self._gpus[path] * times["s"] / 3600
            for path in again
            if path in self._gpus and (times := read_benchmark(path))
        )
        if config.max_gpu_hours is not None and kept + more > config.max_gpu_hours:
            raise SrtError(_sentence("max_gpu_hours", config.max_gpu_hours, kept, more))
        if config.max_disk_gb is not None and planned:
            per_partition = max(rates.gpus_per_partition, *(prices[key].gpus for key in planned))
            added = schedule(self.dag, prices, planned, rates.partitions[0], per_partition).peak / 1e9
            if (used := self.disk_gb()) + added > config.max_disk_gb:
                raise SrtError(_sentence("max_disk_gb", config.max_disk_gb, used, added))

    def reached(self) -> str | None:
        """A sentence if what is used has reached the budget."""
        for key, used in (("max_gpu_hours", self.gpu_hours), ("max_disk_gb", self.disk_gb)):
            limit = getattr(self.config, key)
            if limit is not None and (now := used()) >= limit:
                return (
                    f"{key}: {now:,.3g} of {limit:,.3g} are used: no further job is started, and those that run are "
                    "finished; raise it and give the same command to go on"
                )
        return None


def _sentence(key: str, limit: float, used: float, more: float) -> str:
    return (
        f"{key}: {limit:,.3g} is the budget, {used:,.3g} are used and the planned jobs need about {more:,.3g} more: "
        "raise it, or ask for less (snakemake -n shows what each stage needs)"
    )


class Watch(threading.Thread):
    """Looks at the budget while jobs run; once it is reached, Snakemake is told to start no further job (SIGTERM)."""

    def __init__(self, budget: Budget, every: float = EVERY) -> None:
        super().__init__(daemon=True, name="budget")
        self.budget, self.every, self.end = budget, every, threading.Event()

    def run(self) -> None:
        """Look, wait, and look again."""
        while not self.end.wait(self.every):
            if sentence := self.budget.reached():
                print(f"warning: {sentence}", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
