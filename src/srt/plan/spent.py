"""What a run of the workflow has cost: Snakemake's `benchmark:` files, by rule and base model, beside the plan's model.

A benchmark file holds the last attempt of a job, so the time of attempts that were killed is not in it.
"""

from __future__ import annotations

import pandas as pd

from srt.config.root import Config
from srt.plan.jobs import build, model_of
from srt.plan.measured import measure, read_benchmark
from srt.plan.price import Pricing

COLUMNS = (
    "rule", "model", "jobs", "measured", "hours", "gpu_hours", "expected_hours", "measured_over_expected", "cpu_hours",
    "peak_memory_mib",
)  # fmt: skip
SUMS = ("jobs", "measured", "hours", "gpu_hours", "expected_hours", "cpu_hours")


def spent(config: Config) -> pd.DataFrame:
    """A row per rule and base model, and the total.

    Columns: jobs, and how many of them were measured; their hours, GPU-hours and CPU-hours; the hours that the plan's
    model gives for them before any correction, and the ratio of the two; the largest memory of a job in MiB (PSS). NaN
    stands for what was not measured.
    """
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    rows = []
    for job in dag.jobs.values():
        rule = "train" if job.rule == "train_last" else "figures" if job.rule in config.figures else job.rule
        row = {"rule": rule, "model": model_of(config, job) or "", "jobs": 1}
        if found := read_benchmark(job.benchmark) if job.benchmark else None:
            price, hours = pricing.predicted(job), found["s"] / 3600
            row |= {
                "measured": 1, "hours": hours, "gpu_hours": hours * price.gpus, "expected_hours": price.seconds / 3600,
                "cpu_hours": found["cpu_time"] / 3600, "peak_memory_mib": found["max_pss"],
            }  # fmt: skip
        rows.append(row)
    jobs = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "measured_over_expected"])
    how = dict.fromkeys(SUMS, "sum") | {"peak_memory_mib": "max"}
    table = jobs.groupby(["rule", "model"], as_index=False).agg(how)
    table = table.sort_values(["hours", "rule", "model"], ascending=[False, True, True])
    table.loc[len(table)] = {"rule": "total", "model": "", **jobs.agg(how)}
    table["measured_over_expected"] = table["hours"] / table["expected_hours"].where(table["expected_hours"] > 0)
    return table.astype({"jobs": int, "measured": int}).reset_index(drop=True)[list(COLUMNS)]
