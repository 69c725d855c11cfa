"""The plan as text for a terminal."""

from __future__ import annotations

from srt.plan.jobs import GPU_RULES
from srt.plan.tables import Plan, by_group, by_part, later_seed


def to_text(plan: Plan) -> str:
    """All tables of the plan, each with a sentence that explains its columns."""
    figures, rates = plan.targets, plan.config.plan
    counts = list(dict.fromkeys(rates.partitions))
    total = figures.iloc[-1]
    seeds = sorted({len(run.seeds) for run in plan.config.runs.values()})
    lines = [
        f"Plan of {plan.config.results}: {len(plan.dag.jobs)} jobs, {total.gpu_hours:,.0f} GPU-hours "
        f"({'/'.join(map(str, seeds))} seed{'s' * (seeds != [1])} per run; {len(plan.done)} jobs are done, "
        f"{len(plan.remaining)} remain: {total.remaining_gpu_hours:,.0f} GPU-hours)",
        "",
        "By target. A job that several targets need counts in the row of each, but once in the total.",
        "`alone`: GPU-hours of jobs that no other row needs. `on N`: wall time of what remains, if nothing else runs,",
        f"on N partitions of {rates.gpus_per_partition} GPUs. `disk`: space in the end.",
        *table(
            ["target", "jobs", "GPU-hours", "alone", "remaining", "GPU-hours", *(f"on {n}" for n in counts), "disk"],
            [
                (r["target"], f"{r['jobs']:,}", in_hours(r["gpu_hours"]), in_hours(r["alone"]),
                 f"{r['remaining_jobs']:,}", in_hours(r["remaining_gpu_hours"]),
                 *(in_time(3600 * r[f"wall_hours_{n}"]) for n in counts),
                 in_bytes(r["disk_bytes"]))
                for r in figures.to_dict("records")
            ],
        ),
        "",
        *([f"Rates of GPU and disk as measured in {rates.measured}.", ""] if rates.measured else []),
        "By rule and model. Assumed hours (docs/cost.md) times `x assumed`, the median of measured over assumed hours.",
        *table(
            ["rule", "model", "jobs", "hours", "GPU-hours", "measured", "x assumed"],
            [
                (r.rule, r.model, f"{r.jobs:,}", f"{r.hours:,.1f}", in_hours(r.gpu_hours),
                 f"{r.measured}" if r.rule in GPU_RULES else "",
                 f"{r.measured_over_assumed:.2f}" if r.measured else "")
                for r in by_group(plan).itertuples()
            ],
        ),
        "",
        f"Wall time of what remains, on partitions of {rates.gpus_per_partition} GPUs, without waiting in queues.",
        *table(
            ["partitions", "list schedule", "no less than", "disk peak"],
            [(str(s.partitions), in_time(s.wall), in_time(s.lower), in_bytes(s.peak)) for s in plan.schedules],
        ),
        f"Disk in the end: {in_bytes(plan.final_bytes)}.",
    ]  # fmt: skip
    if plan.apart:
        lines += ["", *parts(plan)]
    too_wide = sorted(
        {p.gpus for p in plan.prices.values() if p.gpus > rates.gpus_per_partition * min(rates.partitions)}
    )
    if too_wide:
        lines.append(f"Some jobs take {too_wide[-1]} GPUs, more than {min(rates.partitions)} partitions have in total.")
    if plan.savings:
        lines += ["", *savings(plan)]
    return "\n".join(lines) + "\n"


def parts(plan: Plan) -> list[str]:
    """What the parts that stand apart add to the total."""
    rows = [
        (r.part, f"{r.jobs:,}", *map(in_hours, (r.gpu_hours, r.one_seed_gpu_hours, r.remaining_gpu_hours)))
        for r in by_part(plan).itertuples()
    ]
    without = plan.gpu_hours(set(plan.dag.jobs) - set().union(*plan.apart.values()))
    return [
        f"Parts that stand apart (`plan: apart`); without them, the total is {without:,.0f} GPU-hours.",
        *table(["part", "jobs", "GPU-hours", "with one seed", "remaining"], rows),
    ]


def savings(plan: Plan) -> list[str]:
    """Where savings come from, what the configuration could still change, and whether the target is met."""
    start = plan.savings[0][1]
    rows, before = [], start
    for name, hours in plan.savings:
        rows.append((name, f"{hours:,.0f}", "" if name == plan.savings[0][0] else f"{hours - before:+,.0f}"))
        before = hours
    ours = plan.savings[-1][1]
    lines = [
        "Where savings come from: the same jobs at assumed rates, changed step by step.",
        *table(["what", "GPU-hours", "change"], rows),
        "",
        "What the configuration could still change, each on its own (docs/cost.md says what it needs).",
        *table(["what", "GPU-hours", "change"], [(n, f"{h:,.0f}", f"{h - ours:+,.0f}") for n, h in plan.options]),
        "",
        "If an assumption is wrong:",
        *table(["what", "GPU-hours", "change"], [(n, f"{h:,.0f}", f"{h - ours:+,.0f}") for n, h in plan.sensitivity]),
        "",
    ]
    total = plan.gpu_hours(set(plan.dag.jobs))
    for version, hours in plan.config.plan.paper_gpu_hours.items():
        lines.append(
            f"The paper's {version} states {hours:,.0f} GPU-hours for its final results; this plan: {total:,.0f}."
        )
    if (target := plan.config.plan.target_gpu_hours) is not None:
        first = {key for key in plan.dag.jobs if not later_seed(plan, key)}
        one_seed, extra = plan.gpu_hours(first), plan.gpu_hours(first & set().union(*plan.apart.values()))
        verdict = "is met" if one_seed <= target else f"is missed by {one_seed - target:,.0f}"
        said = f", {one_seed - extra:,.0f} without the parts that stand apart" if plan.apart else ""
        lines.append(
            f"With one seed of each run: {one_seed:,.0f} GPU-hours{said}. The target of {target:,.0f} {verdict}."
        )
    return lines


def table(head: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table: names aligned to the left, numbers to the right."""
    widths = [max(len(head[i]), *(len(row[i]) for row in rows)) if rows else len(head[i]) for i in range(len(head))]
    numeric = [all(row[i][:1] in "0123456789+-" or not row[i] for row in rows) for i in range(len(head))]
    lines = []
    for row in [tuple(head), *rows]:
        cells = [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def in_hours(value: float) -> str:
    """Hours with one decimal."""
    return f"{value:,.1f}" if value else "0"


def in_time(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def in_bytes(value: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e3:,.0f} kB"
