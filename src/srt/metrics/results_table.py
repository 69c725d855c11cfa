"""One table of all evaluations: avg@n and maj@n with intervals, and the gain over the base model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet
from srt.metrics.intervals import one_run_interval

SETTINGS = ("temperature", "top_p", "max_new_tokens")  # of the samples, beside n
ENTRY = ("run", "label", "method", "seed", "step", "groups")
COLUMNS = [
    "dataset", "problem_id", "n", "parsed", "majority_correct", "consistency_all", "pass_rate", "mean_length",
]  # fmt: skip


def results_table(
    evaluations: Iterable[dict[str, Any]], settings: Literal["all", "differing"] = "differing"
) -> pd.DataFrame:
    """One row per run, step and data set.

    avg, maj: means over problems of avg@n and maj@n, with 95 % intervals over problems. gain: avg minus the
    base model's on the same problems, with the paired interval. parsed: share of responses with an answer. The
    settings of SETTINGS are columns too, where the evaluations differ in them or with `settings="all"`.
    """
    cache: dict[str, pd.DataFrame] = {}
    specs: dict[str, dict[str, Any]] = {}
    base: dict[tuple[str, str], pd.Series] = {}
    parts: list[tuple[dict[str, Any], str, str, pd.DataFrame, pd.Series]] = []
    for entry in evaluations:
        missing = [key for key in ENTRY if key not in entry]
        if missing:
            raise SrtError(f"an evaluation lacks the key '{missing[0]}' (needed: {', '.join(ENTRY)}): see --help")
        for path in entry["groups"]:
            if path not in cache:
                cache[path] = read_parquet(Path(path), COLUMNS).to_pandas()
                specs[path] = parquet_metadata(path).get("spec", {})
            for dataset, part in cache[path].groupby("dataset", sort=False):
                rate = part.set_index("problem_id")["pass_rate"].astype(float)
                if entry["step"] == 0:
                    base[(entry["run"], str(dataset))] = rate
                parts.append((entry, path, str(dataset), part, rate))
    table = pd.DataFrame(
        [
            {**_row(entry, name, part), **_gain(base.get((entry["run"], name)) if entry["step"] else rate, rate)}
            for entry, _, name, part, rate in parts
        ]
    )
    for key in SETTINGS:
        values = [specs[path].get(key) for _, path, *_ in parts]
        if settings == "all" or len({*values}) > 1:
            table.insert(table.columns.get_loc("avg"), key, values)
    return table


def _row(entry: dict[str, Any], dataset: str, part: pd.DataFrame) -> dict[str, Any]:
    avg, avg_lo, avg_hi = one_run_interval(part["pass_rate"].to_numpy(float))
    maj, maj_lo, maj_hi = one_run_interval(part["majority_correct"].to_numpy(float))
    return {
        **{key: entry[key] for key in ("run", "label", "method", "seed", "step")},
        "dataset": dataset,
        "problems": len(part),
        "n": int(part["n"].iloc[0]),
        "avg": avg, "avg_lo": avg_lo, "avg_hi": avg_hi,
        "maj": maj, "maj_lo": maj_lo, "maj_hi": maj_hi,
        "parsed": float(part["parsed"].sum() / part["n"].sum()),
        "consistency": float(part["consistency_all"].mean()),
        "length": float(np.average(part["mean_length"], weights=part["n"])),
    }  # fmt: skip


def _gain(before: pd.Series | None, after: pd.Series) -> dict[str, float]:
    if before is None:
        return {"gain": float("nan"), "gain_lo": float("nan"), "gain_hi": float("nan")}
    both = before.index.intersection(after.index)
    gain, lo, hi = one_run_interval(after.loc[both].to_numpy() - before.loc[both].to_numpy(), share=False)
    return {"gain": gain, "gain_lo": lo, "gain_hi": hi}
