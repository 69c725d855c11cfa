"""Early stopping (paper Section 5.1): the evaluated step at which a run's labelled validation set is best.

The run itself trains to its end and the step is found afterwards, so that one run shows both what stopping there would
have kept and what came after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from srt.artefacts.evaluations import expand_evaluations
from srt.common.errors import SrtError
from srt.common.io import read_parquet

COLUMN = {"avg": "pass_rate", "maj": "majority_correct"}


def early_stopping(spec: Mapping[str, Any]) -> pd.DataFrame:
    """One row per data set of each run and seed with a validation set; the validation set has a row as well.

    Columns: run, label, seed, validation (data set), metric, stop (the step at which the validation set is best, the
    earliest of equals; 0 is where the run starts), dataset, and the metric on that data set: start (step 0), at_stop,
    at_end, best.

    Raises:
        SrtError: a validation set that is in none of the run's groups files.
    """
    rows: list[dict[str, Any]] = []
    for run in spec["runs"]:
        if run["validation"] is None:
            continue
        evaluated = expand_evaluations({"results": spec["results"], "runs": [run]})
        for instance, seed in dict.fromkeys((row["run"], row["seed"]) for row in evaluated):
            curve = _curve((row for row in evaluated if row["run"] == instance), run["validation"]["metric"])
            validation = run["validation"]["dataset"]
            if validation not in curve:
                raise SrtError(
                    f"runs: {run['run']}: validation: no sample of '{validation}': add it to the run's suites"
                )
            stop = curve[validation].idxmax()  # the earliest of equals
            for dataset in curve:
                values = curve[dataset]
                rows.append(
                    {
                        "run": instance, "label": run["label"], "seed": seed, "validation": validation,
                        "metric": run["validation"]["metric"], "stop": int(stop), "dataset": dataset,
                        "start": values.iloc[0], "at_stop": values[stop], "at_end": values.iloc[-1],
                        "best": values.max(),
                    }
                )  # fmt: skip
    columns = [
        "run", "label", "seed", "validation", "metric", "stop", "dataset", "start", "at_stop", "at_end", "best",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _curve(evaluated: Iterable[dict[str, Any]], metric: str) -> pd.DataFrame:
    """The metric by step (index, ascending) and data set (columns): the mean over problems."""
    column = COLUMN[metric]
    found: dict[int, dict[str, float]] = {}
    for row in evaluated:
        for path in row["groups"]:
            groups = read_parquet(Path(path), ["dataset", column]).to_pandas()
            means = groups.astype({column: float}).groupby("dataset", sort=False)[column].mean()
            found.setdefault(row["step"], {}).update(means.to_dict())
    return pd.DataFrame.from_dict(found, orient="index").sort_index()
