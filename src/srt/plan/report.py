"""The plan as people read it (text), and as programs do (CSV by figure, JSON)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from srt.config.root import Config
from srt.plan.jobs import GPU_RULES, Dag, build
from srt.plan.price import Price, Pricing, Variant, measure
from srt.plan.schedule import Schedule, schedule

# From how the authors ran it to how this workflow does, one change after the other; and what a site may still change.
_NONE: dict[str, Any] = {"gpus": 8, "states": "none"}
LADDER: tuple[tuple[str, Variant], ...] = (
    (
        "the authors' settings: decoding without CUDA graphs, old-policy pass, 8 GPUs, evaluation inside",
        Variant(eager=4.0, old_policy=True, recompute=True, share_prompts=False, sample_in_run=True, **_NONE),
    ),
    (
        "CUDA graphs in decoding",
        Variant(old_policy=True, recompute=True, share_prompts=False, sample_in_run=True, **_NONE),
    ),
    (
        "no separate pass of the old policy (ZeRO 3 keeps it)",
        Variant(recompute=True, share_prompts=False, sample_in_run=True, **_NONE),
    ),
    ("a prompt in the update once for all its responses", Variant(recompute=True, sample_in_run=True, **_NONE)),
    ("activations kept where the configuration says so", Variant(sample_in_run=True, **_NONE)),
    ("evaluation in jobs of one GPU, beside training", Variant(**_NONE)),
    ("as few GPUs a run as hold it with its reference", Variant(states="none", offload=False)),
    ("still fewer: the reference in host memory between its passes", Variant(states="none")),
    ("states saved, at checkpoints and on the way, which the authors did not do", Variant(states="waiting")),
    ("those on the way written while training goes on, each rank hashing its own", Variant()),
)
LEVERS: tuple[tuple[str, Variant], ...] = (
    ("gradient_checkpointing: selective (if it fits)", Variant(recompute=False)),
)
SENSITIVITY: tuple[tuple[str, Variant], ...] = (
    ("responses half as long", Variant(length=0.5)),
    ("responses twice as long", Variant(length=2.0)),
    ("updates at 30 % of the peak", Variant(efficiency=0.3)),
    ("tokens decoded at half the speed", Variant(eager=2.0)),
    ("states written four times as fast", Variant(disk=4.0)),
)


@dataclass
class Plan:
    """Everything that is printed."""

    config: Config
    dag: Dag
    pricing: Pricing
    prices: dict[str, Price]
    done: set[str]
    remaining: set[str]
    schedules: list[Schedule]
    final_bytes: float
    ladder: list[tuple[str, float]] = field(default_factory=list)
    levers: list[tuple[str, float]] = field(default_factory=list)
    sensitivity: list[tuple[str, float]] = field(default_factory=list)

    @cached_property
    def targets(self) -> pd.DataFrame:
        """The table by target, made once: it has a schedule for each of them."""
        return by_figure(self)

    def schedules_of(self, keys: set[str]) -> list[Schedule]:
        """What remains of these jobs, scheduled alone on each number of partitions."""
        before = sum(self.prices[key].final for key in keys & self.done)
        return [
            schedule(self.dag, self.prices, keys & self.remaining, count, self.config.plan.gpus_per_partition, before)
            for count in self.config.plan.partitions
        ]

    def gpu_hours(self, keys: set[str]) -> float:
        """GPU-hours of these jobs."""
        return sum(self.prices[key].gpu_hours for key in sorted(keys))


def make_plan(config: Config) -> Plan:
    """Jobs, prices, schedules and variants of a configuration, with what its results folder holds."""
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    prices = {key: pricing.price(key) for key in dag.jobs}
    done = {key for key, job in dag.jobs.items() if all(Path(path).exists() for path in job.outputs)}
    remaining = dag.closure(dag.leaves, stop=frozenset(done))
    before = sum(prices[key].final for key in done)
    rates = config.plan
    schedules = [
        schedule(dag, prices, remaining, count, rates.gpus_per_partition, before) for count in rates.partitions
    ]
    plan = Plan(config, dag, pricing, prices, done, remaining, schedules, sum(price.final for price in prices.values()))
    if any(price.gpus for price in prices.values()):
        plan.ladder = [(name, _variant_hours(plan, variant)) for name, variant in LADDER]
        plan.levers = [(name, _variant_hours(plan, variant)) for name, variant in LEVERS]
        plan.sensitivity = [(name, _variant_hours(plan, variant)) for name, variant in SENSITIVITY]
    return plan


def _variant_hours(plan: Plan, variant: Variant) -> float:
    """GPU-hours of the whole configuration run another way, from assumed rates alone."""
    jobs = (job for job in plan.dag.jobs.values() if job.rule in GPU_RULES)
    return sum(plan.pricing.predicted(job, variant).gpu_hours for job in jobs)


def by_figure(plan: Plan) -> pd.DataFrame:
    """A row a figure, one for everything else that `snakemake` makes, and the total, each job once.

    `gpu_hours`: of all that the target needs. `alone`: of jobs that no other row needs; the difference is shared.
    `wall_hours_2`: of what remains, if nothing else runs on two partitions, and `disk_peak_bytes_2` meanwhile;
    `disk_bytes`: of all its files in the end.
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


def by_group(plan: Plan) -> pd.DataFrame:
    """A row a rule and model: jobs, GPU-hours, measurements and what they correct."""
    jobs: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, job in plan.dag.jobs.items():
        jobs[plan.pricing._group(job) if job.rule in GPU_RULES else ("without a GPU", "")].append(key)
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
    """Everything, with the assumptions."""
    return {
        "assumptions": plan.config.plan.model_dump(mode="json"),
        "seeds": {name: len(run.seeds) for name, run in plan.config.runs.items()},
        "targets": _records(plan.targets),
        "groups": _records(by_group(plan)),
        "jobs": dict(sorted(Counter(job.rule for job in plan.dag.jobs.values()).items())),
        "wall": [{k: v for k, v in asdict(s).items() if k != "start"} for s in plan.schedules],
        "final_bytes": plan.final_bytes,
        "savings": [{"change": name, "gpu_hours": hours} for name, hours in plan.ladder],
        "levers": [{"change": name, "gpu_hours": hours} for name, hours in plan.levers],
        "sensitivity": [{"change": name, "gpu_hours": hours} for name, hours in plan.sensitivity],
        "measured_lengths": {f"{kind} {model}": v for (kind, model), v in plan.pricing.measured.lengths.items()},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {k: None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in frame.to_dict("records")
    ]


# -- text --------------------------------------------------------------------------------------------------------------


def to_text(plan: Plan) -> str:
    """The plan for a terminal."""
    figures, rates = plan.targets, plan.config.plan
    counts = list(dict.fromkeys(rates.partitions))
    total = figures.iloc[-1]
    seeds = sorted({len(run.seeds) for run in plan.config.runs.values()})
    lines = [
        f"Plan of {plan.config.results}: {len(plan.dag.jobs)} jobs, {total.gpu_hours:,.0f} GPU-hours "
        f"({'/'.join(map(str, seeds))} seed{'s' * (seeds != [1])} a run; {len(plan.done)} jobs have their files, "
        f"{len(plan.remaining)} remain: {total.remaining_gpu_hours:,.0f} GPU-hours)",
        "",
        "By target. A job that several need is in the row of each, once in the total; `alone`: no other row needs it.",
        f"`on 2`: wall time of what remains, alone on 2 partitions of {rates.gpus_per_partition} GPUs; `disk`: final.",
        *_table(
            ["target", "jobs", "GPU-hours", "alone", "remaining", "GPU-hours", *(f"on {n}" for n in counts), "disk"],
            [
                (r["target"], f"{r['jobs']:,}", _hours(r["gpu_hours"]), _hours(r["alone"]), f"{r['remaining_jobs']:,}",
                 _hours(r["remaining_gpu_hours"]), *(_span(3600 * r[f"wall_hours_{n}"]) for n in counts),
                 _bytes(r["disk_bytes"]))
                for r in figures.to_dict("records")
            ],
        ),
        "",
        "By rule and model. Times are from assumed rates (docs/cost.md) times the median of measured over assumed.",
        *_table(
            ["rule", "model", "jobs", "hours", "GPU-hours", "measured", "x assumed"],
            [
                (r.rule, r.model, f"{r.jobs:,}", f"{r.hours:,.1f}", _hours(r.gpu_hours),
                 f"{r.measured}" if r.rule in GPU_RULES else "",
                 f"{r.measured_over_assumed:.2f}" if r.measured else "")
                for r in by_group(plan).itertuples()
            ],
        ),
        "",
        f"Wall time of what remains, on partitions of {rates.gpus_per_partition} GPUs (waiting in queues not counted).",
        *_table(
            ["partitions", "list schedule", "no less than", "disk peak"],
            [(str(s.partitions), _span(s.wall), _span(s.lower), _bytes(s.peak)) for s in plan.schedules],
        ),
        f"Disk in the end: {_bytes(plan.final_bytes)}.",
    ]  # fmt: skip
    too_wide = sorted(
        {p.gpus for p in plan.prices.values() if p.gpus > rates.gpus_per_partition * min(rates.partitions)}
    )
    if too_wide:
        lines.append(f"Some jobs take {too_wide[-1]} GPUs, more than the smallest number of partitions has.")
    if plan.ladder:
        lines += ["", *savings(plan)]
    return "\n".join(lines) + "\n"


def savings(plan: Plan) -> list[str]:
    """Where savings come from, what could still be changed, and whether the target is met."""
    start = plan.ladder[0][1]
    rows, before = [], start
    for name, hours in plan.ladder:
        rows.append((name, f"{hours:,.0f}", "" if name == plan.ladder[0][0] else f"{hours - before:+,.0f}"))
        before = hours
    ours = plan.ladder[-1][1]
    lines = [
        "Where savings come from: the same jobs, from assumed rates alone.",
        *_table(["what", "GPU-hours", "change"], rows),
        "",
        "What the configuration could still change, each by itself (docs/cost.md says what it needs).",
        *_table(["what", "GPU-hours", "change"], [(n, f"{h:,.0f}", f"{h - ours:+,.0f}") for n, h in plan.levers]),
        "",
        "If an assumption is wrong:",
        *_table(["what", "GPU-hours", "change"], [(n, f"{h:,.0f}", f"{h - ours:+,.0f}") for n, h in plan.sensitivity]),
        "",
    ]
    total = plan.gpu_hours(set(plan.dag.jobs))
    for version, hours in plan.config.plan.paper_gpu_hours.items():
        lines.append(
            f"The paper's {version} states {hours:,.0f} GPU-hours for its final results; this plan: {total:,.0f}."
        )
    if (target := plan.config.plan.target_gpu_hours) is not None:
        one_seed = sum(
            plan.prices[key].gpu_hours for key, job in plan.dag.jobs.items() if not _later_seed(plan.config, job.name)
        )
        verdict = "is met" if one_seed <= target else f"is missed by {one_seed - target:,.0f}"
        lines.append(f"With one seed of each run: {one_seed:,.0f} GPU-hours. The target of {target:,.0f} {verdict}.")
    return lines


def _later_seed(config: Config, name: str) -> bool:
    """Whether a job belongs to a run's second or later seed."""
    first = name.partition("/")[0]
    run, _, seed = first.rpartition("-s")
    return run in config.runs and seed.isdecimal() and int(seed) in config.runs[run].seeds[1:]


def _table(head: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of text: names to the left, numbers to the right."""
    widths = [max(len(head[i]), *(len(row[i]) for row in rows)) if rows else len(head[i]) for i in range(len(head))]
    numeric = [all(row[i][:1] in "0123456789+-" or not row[i] for row in rows) for i in range(len(head))]
    lines = []
    for row in [tuple(head), *rows]:
        cells = [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value else "0"


def _span(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e3:,.0f} kB"
