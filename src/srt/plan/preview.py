"""What a dry-run prints of thousands of jobs: their number by stage and model, GPU-hours, disk and wall time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from srt.config.root import Config
from srt.plan.jobs import GPU_RULES, STAGES, build, model_of, stage_of
from srt.plan.measured import measure
from srt.plan.price import Pricing
from srt.plan.schedule import schedule
from srt.plan.text import in_bytes, in_hours, in_time, table


def preview(config: Config, outputs: Iterable[str]) -> str:
    """The planned jobs as text.

    Args:
        outputs: files that Snakemake plans to make; those that no job of the configuration makes are left out.
    """
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    prices = {key: pricing.price(key) for key in dag.jobs}
    planned = {dag.maker[path] for path in outputs if path in dag.maker}
    kind = {}
    for key in sorted(planned):
        job = dag.jobs[key]
        kind[key] = stage_of(config, job), model_of(config, job) or "" if job.rule in GPU_RULES else ""
    jobs, gpu_hours = Counter(kind.values()), Counter[tuple[str, str]]()
    for key, group in kind.items():
        gpu_hours[group] += prices[key].gpu_hours
    rows = sorted(jobs, key=lambda group: (STAGES.index(group[0]), -gpu_hours[group], group))
    rates = config.plan
    schedules = [schedule(dag, prices, planned, count, rates.gpus_per_partition) for count in rates.partitions]
    final = sum(prices[key].final for key in sorted(planned))
    on = ", ".join(f"{in_time(each.wall)} on {each.partitions}" for each in schedules)
    lines = [
        f"{len(planned):,} jobs are planned: {in_hours(sum(gpu_hours.values()))} GPU-hours, {in_bytes(final)} on disk "
        f"in the end, {in_bytes(max(each.peak for each in schedules))} at most.",
        "",
        *table(
            ["stage", "model", "jobs", "GPU-hours"],
            [(*group, f"{jobs[group]:,}", in_hours(gpu_hours[group])) for group in rows],
        ),
        "",
        f"Wall time without waiting in queues: {on} partitions of {rates.gpus_per_partition} GPUs.",
    ]
    if any(len(run.seeds) > 1 for run in config.runs.values()):
        lines.append("One seed of each run: --config seeds=1. What each figure costs: snakemake plan (docs/cost.md).")
    else:
        lines.append("What each figure costs: snakemake plan (docs/cost.md).")
    return "\n".join(lines) + "\n"
