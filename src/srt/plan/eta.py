"""How long a workflow that runs now still takes: jobs left, at what jobs like them took so far (`srt watch`).

The jobs are those of `srt.plan.jobs`. Their seconds come from `srt.plan.price`: the benchmark files that Snakemake has
written so far, and for rules that have none the assumptions of the section `plan`. What remains is scheduled on the
cores. No benchmark holds Snakemake's own work between jobs, so the schedule is stretched by what the clock says of the
part that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from srt.config.root import Config
from srt.plan.jobs import Dag, build
from srt.plan.measured import Measured, read_benchmark
from srt.plan.price import Pricing
from srt.plan.schedule import schedule

SETTLED = 120.0  # seconds of work before the clock is believed
STRETCH = (0.9, 2.0)  # the least and the most that the clock may say


@dataclass(frozen=True)
class Left:
    """What is left. `done`, `jobs`: numbers of jobs; `seconds`: until all are done; `elapsed`: since the start."""

    done: int
    jobs: int
    seconds: float
    elapsed: float

    def line(self) -> str:
        """As people read it.

        >>> Left(12, 60, 1830.0, 300.0).line()
        '12 of 60 jobs done after 5 min, about 31 min left'
        """
        if self.done == self.jobs:
            return f"{self.jobs} of {self.jobs} jobs done after {_minutes(self.elapsed)}"
        return (
            f"{self.done} of {self.jobs} jobs done after {_minutes(self.elapsed)}, about {_minutes(self.seconds)} left"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@dataclass
class Eta:
    """Asked again and again while a workflow runs; every benchmark file is read once.

    Args:
        config: the configuration that runs.
        cores: jobs at a time (each has one thread in the configurations that this is for).
        clock: seconds; for tests.
    """

    config: Config
    cores: int
    clock: Callable[[], float] = time.monotonic
    dag: Dag = field(init=False)
    _seconds: dict[str, float] = field(default_factory=dict)
    _before: set[str] = field(default_factory=set)
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.dag = build(self.config)
        self._began = self.clock()
        self._before = self._done()

    def left(self) -> Left:
        """What is left now."""
        done = self._done()
        elapsed = self.clock() - self._began
        remaining = self.dag.closure(self.dag.leaves, stop=frozenset(done))
        for key in done - self._seconds.keys():
            benchmark = self.dag.jobs[key].benchmark
            if benchmark and (found := read_benchmark(benchmark)):
                self._seconds[key] = found["s"]
        pricing = Pricing(self.config, self.dag, Measured(seconds=self._seconds))
        began_with = self.dag.closure(self.dag.leaves, stop=frozenset(self._before))
        prices = {key: replace(pricing.price(key), gpus=1) for key in remaining | began_with}
        rest, whole = (schedule(self.dag, prices, keys, 1, self.cores).wall for keys in (remaining, began_with))
        # what runs now counts as not begun up to here: on average a job that is met running is half through, and it is
        # a long one, since those are met more often
        seconds = [prices[key].seconds for key in remaining]
        half = sum(s * s for s in seconds) / (2 * sum(seconds)) if elapsed and sum(seconds) else 0.0
        rest = max(rest - half, 0.0)
        worked = whole - rest
        stretch = min(max(elapsed / worked, STRETCH[0]), STRETCH[1]) if worked > SETTLED else 1.0
        return Left(len(self.dag.jobs) - len(remaining), len(self.dag.jobs), rest * stretch, elapsed)

    def _done(self) -> set[str]:
        return {key for key, job in self.dag.jobs.items() if all(Path(path).exists() for path in job.outputs)}
