"""The tables and figures beside the page of a finished run (docs/miniature, docs/real), from its results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from srt.artefacts.paths import Paths
from srt.claims.verdict_tables import to_frame
from srt.common.errors import SrtError
from srt.common.io import read_parquet, write_csv
from srt.config.root import Config
from srt.metrics.alarm import accuracy_fall, evaluate_alarm
from srt.plan.spent import spent
from srt.report.kept_claims import judge_kept

# The claims of a run whose intervals were bootstraps, which `judge_again` judges by the present rule.
BOOTSTRAP = "bootstrap_claims.csv"


def judge_again(config: Config, out: Path) -> None:
    """Write claims.csv anew from the kept tables, if they are of a run whose intervals were bootstraps."""
    if (out / BOOTSTRAP).is_file():
        write_csv(out / "claims.csv", to_frame(judge_kept(config, out)))


def collect(config: Config, out: Path) -> None:
    """Copy the tables and figures of a finished run to `out`, and make alarm.csv and cost.csv there."""
    paths = Paths(config.results)
    tables = [paths.claims("csv"), paths.table("results"), paths.provenance()]
    if any(run.validation for run in config.runs.values()):
        tables.append(paths.table("early_stopping"))
    figures = [paths.figure(name, suffix) for name in config.figures for suffix in ("png", "csv")]
    for file in map(Path, tables + figures):
        if not file.is_file():
            raise SrtError(f"{file} does not exist: finish the run, then collect again")
        shutil.copyfile(file, out / file.name)
    (out / BOOTSTRAP).unlink(missing_ok=True)  # of the run before
    write_csv(out / "alarm.csv", alarm_table(config))
    write_csv(out / "cost.csv", spent(config))  # costs.csv lacks the jobs that ended after it


def alarm_table(config: Config) -> pd.DataFrame:
    """One row per run and seed: where the label-free alarm rang, and where the accuracy on its test sets fell for good.

    The fall (`srt.metrics.alarm.accuracy_fall`) is the first evaluated step at which avg, the mean of the run's test
    sets, is 10 % and 0.05 below its best so far and stays there; between evaluations nothing is known. Runs that act on
    their alarm are left out: no fall follows it, so it would count as false.
    """
    rows, paths = [], Paths(config.results)
    results = pd.read_csv(paths.table("results"))
    curves = results.groupby(["run", "step"], as_index=False)["avg"].mean()
    for name in (name for name, run in config.runs.items() if run.on_alarm is None):
        for instance in config.instances(name):
            frame = read_parquet(paths.run_metrics(instance)).to_pandas()
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
