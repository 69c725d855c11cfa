"""The tables and figures beside the page of a miniature run (docs/miniature), from its results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import read_parquet, write_csv
from srt.config.root import Config
from srt.metrics.alarm import accuracy_fall, evaluate_alarm
from srt.plan.spent import spent

TABLES = ("claims/claims.csv", "tables/results.csv", "tables/early_stopping.csv", "provenance/provenance.csv")


def collect(config: Config, out: Path) -> None:
    """Copy the tables and figures of a finished run to `out`, and make alarm.csv and cost.csv there."""
    results = Path(config.results)
    figures = [f"figures/{name}.{suffix}" for name in config.figures for suffix in ("png", "csv")]
    for file in (*TABLES, *figures):
        if not (results / file).is_file():
            raise SrtError(f"{results / file} does not exist: finish the run (`make mini`), then collect again")
        shutil.copyfile(results / file, out / Path(file).name)
    write_csv(out / "alarm.csv", alarm_table(config))
    write_csv(out / "cost.csv", spent(config))  # costs.csv lacks the jobs that ended after it


def alarm_table(config: Config) -> pd.DataFrame:
    """One row per run and seed: where the label-free alarm rang, and where the accuracy on its test sets fell for good.

    The fall (`srt.metrics.alarm.accuracy_fall`) is the first evaluated step at which avg, the mean of the run's test
    sets, is 10 % and 0.05 below its best so far and stays there; between evaluations nothing is known. Runs that act on
    their alarm are left out: no fall follows it, so it would count as false.
    """
    rows = []
    results = pd.read_csv(Path(config.results, "tables/results.csv"))
    curves = results.groupby(["run", "step"], as_index=False)["avg"].mean()
    for name in (name for name, run in config.runs.items() if run.on_alarm is None):
        for instance in config.instances(name):
            frame = read_parquet(Path(config.results, "runs", instance, "metrics.parquet")).to_pandas()
            curve = curves[curves["run"] == instance].sort_values("step")
            fall = accuracy_fall(curve, "avg", window=1, share=0.9)
            found = evaluate_alarm(frame, fall, config.alarm)
            rows.append(
                {
                    "run": name, "seed": config.entry(instance)[2], "steps": int(frame["step"].max()),
                    "alarm": found.alarm, "fall": found.fall, "lead": found.lead,
                    "false_alarm": found.false_alarm, "missed": found.missed,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"alarm": "Int64", "fall": "Int64", "lead": "Int64"})
