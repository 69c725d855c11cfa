"""What a run of the workflow has cost: Snakemake's `benchmark:` files, by rule and base model, beside the plan's model.

A benchmark file holds the last attempt of a job, so what killed attempts took is not in it.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

import pandas as pd

from srt.config.root import Config
from srt.plan.jobs import build, model_of
from srt.plan.price import Pricing, measure

COLUMNS = (
    "rule", "model", "jobs", "measured", "hours", "gpu_hours", "expected_hours", "measured_over_expected", "cpu_hours",
    "peak_memory_mib",
)  # fmt: skip


def spent(config: Config) -> pd.DataFrame:
    """A row a rule and base model, and the total.

    Columns: jobs, and those of them that were measured; their hours, GPU-hours and CPU-hours; the hours that the plan's
    model gives for them before any correction, and the ratio of the two; the largest memory of a job in MiB (PSS). What
    was not measured is NaN.
    """
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    groups: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for job in dag.jobs.values():
        found = _benchmark(Path(job.benchmark)) if job.benchmark else None
        row = {"jobs": 1.0}
        if found:
            price = pricing.predicted(job)
            hours = found["s"] / 3600
            row |= {
                "measured": 1.0, "hours": hours, "gpu_hours": hours * price.gpus,
                "expected_hours": price.seconds / 3600,
                "cpu_hours": found["cpu_time"] / 3600, "peak_memory_mib": found["max_pss"],
            }  # fmt: skip
        rule = "train" if job.rule == "train_last" else "figures" if job.rule in config.figures else job.rule
        groups[rule, model_of(config, job) or ""].append(row)
    rows = [{"rule": rule, "model": model} | _joined(parts) for (rule, model), parts in groups.items()]
    rows.sort(key=lambda row: (-row["hours"], row["rule"], row["model"]))
    rows.append({"rule": "total", "model": ""} | _joined([row for parts in groups.values() for row in parts]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _joined(parts: list[dict[str, float]]) -> dict[str, float]:
    """Sums, and the largest memory, of some jobs."""
    total = {
        name: sum(part.get(name, 0.0) for part in parts)
        for name in ("jobs", "measured", "hours", "gpu_hours", "expected_hours", "cpu_hours")
    }
    expected = total["expected_hours"]
    return {
        **{name: int(value) if name in ("jobs", "measured") else value for name, value in total.items()},
        "measured_over_expected": total["hours"] / expected if expected else float("nan"),
        "peak_memory_mib": max((part["peak_memory_mib"] for part in parts if "measured" in part), default=float("nan")),
    }


def _benchmark(path: Path) -> dict[str, float] | None:
    """Means of the columns of a benchmark file, None without one; Snakemake writes NA for what it could not see."""
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    known = {name: [float(row[name]) for row in rows if row.get(name) not in (None, "NA", "-")] for name in _READ}
    if not known["s"]:
        return None
    return {name: statistics.mean(values) if values else 0.0 for name, values in known.items()}


_READ = ("s", "cpu_time", "max_pss")
