"""How far a running workflow is and how long the rest takes (`srt watch`).

The jobs are those of `srt.plan.jobs`. Which of them are to be made, the workflow says when its first job starts, in
`logs/planned.txt` (rules/lifecycle.smk): results of another configuration are made again, and a target may need only
some of the jobs. Until then, jobs whose outputs exist count as done.

Seconds come from `srt.plan.price`: from the benchmark files that Snakemake has written so far, and for rules without
one from the assumptions of the section `plan`. The remaining jobs are scheduled on the cores. Benchmarks leave out
Snakemake's own work between jobs, so the remaining time is multiplied by a stretch: the elapsed time over the scheduled
time of the finished jobs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from srt.artefacts.paths import Paths
from srt.config.root import Config
from srt.plan.jobs import STAGES, Dag, build, stage_of
from srt.plan.measured import Measured, read_benchmark
from srt.plan.price import Pricing
from srt.plan.schedule import schedule

SETTLED = 120.0  # scheduled seconds of finished jobs from which on the schedule is stretched
STRETCH = (0.9, 2.0)  # limits of the stretch
BAR = 20  # characters of the bar of a stage


@dataclass(frozen=True)
class Stage:
    """Numbers of jobs of one stage."""

    name: str
    done: int
    jobs: int


@dataclass(frozen=True)
class Progress:
    """Numbers of jobs, in all and by stage, and seconds: elapsed since the start, left until all jobs are done."""

    done: int
    jobs: int
    left: float
    elapsed: float
    stages: tuple[Stage, ...] = ()

    def table(self) -> list[str]:
        """A line per stage, with a bar of twenty characters.

        >>> Progress(7, 9, 60.0, 60.0, (Stage("data", 5, 5), Stage("sampling", 2, 4))).table()
        ['  data      #################### 5 of 5', '  sampling  ##########.......... 2 of 4']
        """
        width = max(len(stage.name) for stage in self.stages)
        digits = max(len(str(stage.jobs)) for stage in self.stages)
        lines = []
        for stage in self.stages:
            bar = "#" * (BAR * stage.done // stage.jobs)
            lines.append(f"  {stage.name:<{width}}  {bar:.<{BAR}} {stage.done:>{digits}} of {stage.jobs}")
        return lines

    def line(self) -> str:
        """As one line for people.

        >>> Progress(done=12, jobs=60, left=1830.0, elapsed=300.0).line()
        '12 of 60 jobs done after 5 min, about 31 min left'
        """
        done = f"{self.done} of {self.jobs} jobs done after {_minutes(self.elapsed)}"
        return done if self.done == self.jobs else f"{done}, about {_minutes(self.left)} left"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@dataclass
class Eta:
    """Follows a workflow while it runs; every benchmark file is read once.

    Args:
        config: the configuration that runs.
        cores: jobs at a time, each with one thread.
        clock: returns seconds (tests have their own).

    plan_known: whether the workflow has said what it makes.
    """

    config: Config
    cores: int
    clock: Callable[[], float] = time.monotonic
    dag: Dag = field(init=False)
    plan_known: bool = field(default=False, init=False)
    _seconds: dict[str, float] = field(default_factory=dict)
    _before: set[str] = field(default_factory=set)
    _began: float = 0.0
    _since: float = 0.0  # as the times of files

    def __post_init__(self) -> None:
        self.dag = build(self.config)
        self._began = self.clock()
        self._since = time.time() - 1.0  # times of files may lag behind
        self._before = self.dag.done()

    def progress(self) -> Progress:
        """How far the workflow is now."""
        elapsed = self.clock() - self._began
        if planned := self._planned():
            began_with, when = planned
            self.plan_known = True
            remaining = {key for key in began_with if not self._made_since(key, when)}
            every = self.dag.closure(sorted(began_with))
            done = every - remaining
        else:
            done = self.dag.done()
            remaining = self.dag.closure(self.dag.leaves, stop=frozenset(done))
            began_with = self.dag.closure(self.dag.leaves, stop=frozenset(self._before))
            every = set(self.dag.jobs)
        for key in done - self._seconds.keys():
            benchmark = self.dag.jobs[key].benchmark
            if benchmark and (found := read_benchmark(benchmark)):
                self._seconds[key] = found["s"]
        pricing = Pricing(self.config, self.dag, Measured(seconds=self._seconds))
        prices = {key: replace(pricing.price(key), gpus=1) for key in self.dag.jobs}
        rest, whole = (schedule(self.dag, prices, keys, 1, self.cores).wall for keys in (remaining, began_with))
        # Running jobs counted as not started so far. On average they are half done, and long jobs are more likely to be
        # running than short ones.
        seconds = [prices[key].seconds for key in remaining]
        half = sum(s * s for s in seconds) / (2 * sum(seconds)) if elapsed and sum(seconds) else 0.0
        rest = max(rest - half, 0.0)
        worked = whole - rest
        stretch = min(max(elapsed / worked, STRETCH[0]), STRETCH[1]) if worked > SETTLED else 1.0
        stages = self._stages(every, remaining)
        return Progress(len(every) - len(remaining), len(every), rest * stretch, elapsed, stages)

    def _planned(self) -> tuple[set[str], float] | None:
        """The keys of the jobs that the running workflow makes, and when it said so; None before."""
        path = Path(Paths(self.config.results).planned())
        try:
            when, outputs = path.stat().st_mtime, path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        keys = {self.dag.maker[output] for output in outputs if output in self.dag.maker}
        return (keys, when) if when >= self._since and keys else None

    def _made_since(self, key: str, when: float) -> bool:
        """Whether all outputs of a job are there, and one is newer than a time."""
        try:
            return max(Path(path).stat().st_mtime for path in self.dag.jobs[key].outputs) >= when
        except FileNotFoundError:
            return False

    def _stages(self, every: set[str], remaining: set[str]) -> tuple[Stage, ...]:
        """The stages that jobs belong to, in their order."""
        jobs, left = (Counter(stage_of(self.config, self.dag.jobs[key]) for key in keys) for keys in (every, remaining))
        return tuple(Stage(name, jobs[name] - left[name], jobs[name]) for name in STAGES if jobs[name])
