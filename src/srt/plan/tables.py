"""The plan of a configuration: prices, schedules and variants of its jobs, as tables and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from srt.config.root import Config
from srt.config.runs import run_and_step
from srt.plan.jobs import GPU_RULES, Dag, build
from srt.plan.measured import measure
from srt.plan.price import Price, Pricing
from srt.plan.schedule import Schedule, schedule
from srt.plan.variants import OPTIONS, SAVINGS, SENSITIVITY, Variant


@dataclass
class Plan:
    """A configuration's jobs with their prices and schedules; `done` and `remaining` are keys of jobs.

    savings, options, sensitivity: GPU-hours of each variant of `srt.plan.variants`, by its description.
    """

    config: Config
    dag: Dag
    pricing: Pricing
    prices: dict[str, Price]
    done: set[str]
    remaining: set[str]
    savings: list[tuple[str, float]] = field(default_factory=list)
    options: list[tuple[str, float]] = field(default_factory=list)
    sensitivity: list[tuple[str, float]] = field(default_factory=list)

    @cached_property
    def targets(self) -> pd.DataFrame:
        """`by_target`, computed once, since it schedules each target."""
        return by_target(self)

    @cached_property
    def schedules(self) -> list[Schedule]:
        """Schedules of all that remains, one for each number of partitions."""
        return self.schedules_of(set(self.dag.jobs))

    @property
    def final_bytes(self) -> float:
        """Bytes on the disk when all jobs are done."""
        return sum(price.final for price in self.prices.values())

    def schedules_of(self, keys: set[str]) -> list[Schedule]:
        """Schedules of what remains of these jobs if no others run, one for each number of partitions."""
        before = sum(self.prices[key].final for key in sorted(keys & self.done))
        return [
            schedule(self.dag, self.prices, keys & self.remaining, count, self.config.plan.gpus_per_partition, before)
            for count in self.config.plan.partitions
        ]

    @cached_property
    def apart(self) -> dict[str, set[str]]:
        """Keys of the jobs of each part that stands apart: training after its steps, and what is made from it."""
        return {part: _jobs_of_part(self.config, self.dag, runs) for part, runs in self.config.plan.apart.items()}

    def gpu_hours(self, keys: set[str]) -> float:
        """GPU-hours of these jobs."""
        return sum(self.prices[key].gpu_hours for key in sorted(keys))


def make_plan(config: Config) -> Plan:
    """Jobs, prices, schedules and variants of a configuration, with what its results folder holds."""
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    prices = {key: pricing.price(key) for key in dag.jobs}
    done = dag.done()
    remaining = dag.closure(dag.leaves, stop=frozenset(done))
    plan = Plan(pricing.config, dag, pricing, prices, done, remaining)
    if any(price.gpus for price in prices.values()):
        plan.savings = [(name, _variant_hours(plan, variant)) for name, variant in SAVINGS]
        plan.options = [(name, _variant_hours(plan, variant)) for name, variant in OPTIONS]
        plan.sensitivity = [(name, _variant_hours(plan, variant)) for name, variant in SENSITIVITY]
    return plan


def _jobs_of_part(config: Config, dag: Dag, runs: dict[str, int]) -> set[str]:
    """Training jobs of these runs after these steps, and all jobs that need them, except those of `dag.leaves`.

    Leaves, such as figures and tables, are made with and without the part.
    """
    leaves, found = set(dag.leaves), set()
    for key in dag.order():
        job = dag.jobs[key]
        trained = None
        if job.rule in ("train", "train_last"):
            instance, step = run_and_step(job.name)
            trained = runs.get(config.entry(instance).id, step) < step
        if key not in leaves and (trained or any(parent in found for parent in dag.parents(key))):
            found.add(key)
    return found


def _variant_hours(plan: Plan, variant: Variant) -> float:
    """GPU-hours of the whole configuration under a variant, from assumed rates alone."""
    jobs = (job for job in plan.dag.jobs.values() if job.rule in GPU_RULES)
    return sum(plan.pricing.predicted(job, variant).gpu_hours for job in jobs)


def by_target(plan: Plan) -> pd.DataFrame:
    """A row per figure, one for everything else that `snakemake` makes, and totals with each job once.

    `gpu_hours` are of all jobs that the target needs, `alone` of those that no other row needs. `disk_bytes` are of all
    its files at the end. `wall_hours_2` and `disk_peak_bytes_2` are of what remains, alone on two partitions.
    """
    targets = {name: plan.dag.closure([key]) for name, key in plan.dag.figures.items()}
    others = set(plan.dag.leaves) - set(plan.dag.figures.values())
    targets["tables, claims, audit, pages"] = plan.dag.closure(sorted(others))
    needed = Counter(key for keys in targets.values() for key in keys)
    rows = []
    figures = plan.dag.closure(sorted(plan.dag.figures.values()))
    for name, keys in [*targets.items(), ("all figures", figures), ("total, each job once", set(plan.dag.jobs))]:
        left = keys & plan.remaining
        schedules = plan.schedules if len(keys) == len(plan.dag.jobs) else plan.schedules_of(keys)
        shared_by = [key for key in keys if needed[key] > 1]
        rows.append(
            {
                "target": name,
                "jobs": len(keys),
                "gpu_hours": plan.gpu_hours(keys),
                "alone": plan.gpu_hours({key for key in keys if needed[key] == 1}),
                "shared_jobs": len(shared_by),
                "remaining_jobs": len(left),
                "remaining_gpu_hours": plan.gpu_hours(left),
                **{f"wall_hours_{s.partitions}": s.wall / 3600 for s in schedules},
                **{f"disk_peak_bytes_{s.partitions}": s.peak for s in schedules},
                "disk_bytes": sum(plan.prices[key].final for key in sorted(keys)),
            }
        )
    return pd.DataFrame(rows)


def by_part(plan: Plan) -> pd.DataFrame:
    """A row per part that stands apart: its jobs, GPU-hours, those of the first seed of each run, and what remains."""
    rows = [
        {
            "part": part,
            "jobs": len(keys),
            "gpu_hours": plan.gpu_hours(keys),
            "one_seed_gpu_hours": plan.gpu_hours({key for key in keys if not later_seed(plan, key)}),
            "remaining_gpu_hours": plan.gpu_hours(keys & plan.remaining),
        }
        for part, keys in plan.apart.items()
    ]
    return pd.DataFrame(rows)


def later_seed(plan: Plan, key: str) -> bool:
    """Whether a job belongs to a run's second or later seed."""
    run, _, seed = plan.dag.jobs[key].name.partition("/")[0].rpartition("-s")
    return run in plan.config.runs and seed.isdecimal() and int(seed) in plan.config.runs[run].seeds[1:]


def by_group(plan: Plan) -> pd.DataFrame:
    """A row per rule and model: jobs, hours, the number of measurements and their median over assumed seconds."""
    jobs: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, job in plan.dag.jobs.items():
        jobs[plan.pricing.group(job) if job.rule in GPU_RULES else ("without a GPU", "")].append(key)
    rows = []
    for (rule, model), keys in sorted(jobs.items(), key=lambda item: -plan.gpu_hours(set(item[1]))):
        factor, count = plan.pricing.corrections.get((rule, model), (float("nan"), 0))
        hours = sum(plan.prices[key].seconds for key in keys) / 3600
        rows.append(
            {
                "rule": rule, "model": model, "jobs": len(keys), "hours": hours, "gpu_hours": plan.gpu_hours(set(keys)),
                "measured": count, "measured_over_assumed": factor,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def to_json(plan: Plan) -> dict[str, Any]:
    """All tables and the assumptions behind them."""
    return {
        "assumptions": plan.config.plan.model_dump(mode="json"),
        "seeds": {name: len(run.seeds) for name, run in plan.config.runs.items()},
        "targets": _records(plan.targets),
        "groups": _records(by_group(plan)),
        "apart": _records(by_part(plan)),
        "jobs": dict(sorted(Counter(job.rule for job in plan.dag.jobs.values()).items())),
        "wall": [{k: v for k, v in asdict(s).items() if k != "start"} for s in plan.schedules],
        "final_bytes": plan.final_bytes,
        "savings": [{"change": name, "gpu_hours": hours} for name, hours in plan.savings],
        "options": [{"change": name, "gpu_hours": hours} for name, hours in plan.options],
        "sensitivity": [{"change": name, "gpu_hours": hours} for name, hours in plan.sensitivity],
        "measured_lengths": {f"{kind} {model}": v for (kind, model), v in plan.pricing.measured.lengths.items()},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
