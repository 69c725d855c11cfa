"""What was measured: lengths, seconds and rows in a results folder, rates of the hardware in a report of gpu-check."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from srt.artefacts.paths import Paths
from srt.common.errors import SrtError
from srt.common.io import open_parquet, read_json, read_parquet
from srt.config.explain import first_problem
from srt.config.plan import PlanConfig
from srt.config.root import Config
from srt.plan.jobs import Dag, model_of

FILES_READ = 200  # of each kind and model: enough for a mean
BENCHMARK_COLUMNS = ("s", "cpu_time", "max_pss")  # seconds, seconds, MiB


@dataclass
class Measured:
    """Mean response tokens by (train or sample, model), seconds by job key, rows by data set."""

    lengths: dict[tuple[str, str], float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def measure(config: Config, dag: Dag) -> Measured:
    """What the results folder of a configuration holds so far."""
    rows, paths = {}, Paths(config.results)
    for name in config.datasets:
        path = Path(paths.problems(name))
        if path.is_file():
            rows[name] = open_parquet(path).metadata.num_rows
    benchmarks = {key: read_benchmark(job.benchmark) for key, job in dag.jobs.items()}
    return Measured(_lengths(config, dag), {key: found["s"] for key, found in benchmarks.items() if found}, rows)


def with_measured_rates(config: Config) -> Config:
    """The configuration with the rates of the report that `plan.measured` names in its section `plan`.

    Raises:
        SrtError: the report is absent, damaged, or of a machine without a GPU.
    """
    plan = config.plan
    if plan.measured is None:
        return config
    path, where = Path(plan.measured), f"plan: measured: {plan.measured}"
    if not path.is_file():
        raise SrtError(f"{where} does not exist: run `make gpu-check` on a machine with a GPU, or remove the key")
    report = read_json(path)
    rates = report.get("rates") if isinstance(report, dict) else None
    if not isinstance(rates, dict):
        raise SrtError(f"{where} is no report of `make gpu-check` (it has no rates): name one, or remove the key")
    if not rates:
        raise SrtError(f"{where} was made without a GPU: make it on a machine with one, or remove the key")
    try:
        changed = PlanConfig.model_validate({**plan.model_dump(), **rates})
    except ValidationError as error:
        raise SrtError(f"{where}: rates: {first_problem(PlanConfig, error)}") from None
    return config.model_copy(update={"plan": changed})


def read_benchmark(path: str) -> dict[str, float] | None:
    """Means of `BENCHMARK_COLUMNS` over the rows of a file that Snakemake's `benchmark:` wrote, None without one.

    0 where Snakemake could not measure a column (it writes NA).
    """
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except FileNotFoundError:
        return None
    known = {
        name: [float(row[name]) for row in rows if row.get(name) not in (None, "NA", "-")] for name in BENCHMARK_COLUMNS
    }
    return {name: statistics.fmean(values or [0.0]) for name, values in known.items()} if known["s"] else None


def _lengths(config: Config, dag: Dag) -> dict[tuple[str, str], float]:
    """Mean response tokens by (train or sample, model), from training metrics and scored groups."""
    paths = Paths(config.results)
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for job in dag.jobs.values():
        model = model_of(config, job)
        if job.rule in ("train", "train_last"):
            files["train", str(model)].append(Path(paths.segment_metrics(job.name)))
        elif job.rule == "sample":
            checkpoint, _, suite = job.name.rpartition("/")
            files["sample", str(model)].append(Path(paths.groups(checkpoint, suite)))
    columns = {"train": "response_length", "sample": "mean_length"}
    means = {key: _mean_of(paths, columns[key[0]]) for key, paths in files.items()}
    return {key: mean for key, mean in means.items() if mean}


def _mean_of(paths: Iterable[Path], column: str) -> float | None:
    """Mean over files of the mean of a column."""
    values = []
    for path in [path for path in paths if path.is_file()][:FILES_READ]:
        part = [v for v in read_parquet(path, [column]).column(column).to_pylist() if v is not None]
        if part:
            values.append(statistics.fmean(part))
    return statistics.fmean(values) if values else None
