"""The results on the test questions that are in none of the sets that a run was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.metrics.intervals import mean_interval, one_run_interval

ENTRY = ("run", "label", "method", "seed", "step", "groups", "trained_on")
GROUP_COLUMNS = ["dataset", "problem_id", "pass_rate", "majority_correct"]
MEAN = "mean of "
METRICS = (("avg", "pass_rate"), ("maj", "majority_correct"))


def clean_ids(clean_rows: pd.DataFrame, trained_on: Sequence[str]) -> dict[str, set[str]]:
    """By test set, the ids of the rows that are in none of the training sets `trained_on`.

    `clean_rows` has train, test, problem_id, clean (`srt.audit.audit_tables`). Raises SrtError for a set not audited.
    """
    for name in trained_on:
        if name not in set(clean_rows["train"]):
            raise SrtError(f"training set '{name}' is not in the table of clean rows: rerun the audit rule")
    some = clean_rows[clean_rows["train"].isin(list(trained_on))]
    good = some.groupby(["test", "problem_id"], sort=False)["clean"].all()
    out: dict[str, set[str]] = {str(test): set() for test in dict.fromkeys(some["test"])}
    for test, identity in good[good].index:
        out[str(test)].add(str(identity))
    return out


def decontaminated(evaluations: Iterable[Mapping[str, Any]], clean_rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run, step and test set, and one for the mean over the test sets of a suite, which weigh the same.

    problems, clean: the number of questions, and of those in none of the run's training sets. avg, maj: avg@n and maj@n
    over all questions; avg_clean, maj_clean: over the clean ones, with 95 % intervals over problems (strata:
    the test sets). gain_clean: avg_clean minus the base model's on the same clean questions, paired. In the row of the
    mean, the clean mean leaves out test sets without a clean question; `sets_clean` counts the others. Step 0 is the
    base model: which questions its pretraining saw is not known here.
    """
    files: dict[str, dict[str, pd.DataFrame]] = {}
    base: dict[tuple[str, str], pd.DataFrame] = {}
    known: dict[tuple[str, ...], dict[str, set[str]]] = {}
    rows: list[dict[str, Any]] = []
    for entry in evaluations:
        missing = [key for key in ENTRY if key not in entry]
        if missing:
            raise SrtError(f"an evaluation lacks the key '{missing[0]}' (needed: {', '.join(ENTRY)}): see --help")
        trained_on = tuple(entry["trained_on"])
        clean = known.setdefault(trained_on, clean_ids(clean_rows, trained_on)) if trained_on else {}
        head = {key: entry[key] for key in ENTRY[:5]} | {"trained_on": "+".join(trained_on)}
        for path in entry["groups"]:
            if path not in files:
                table = read_parquet(Path(path), GROUP_COLUMNS).to_pandas()
                files[path] = {str(name): part for name, part in table.groupby("dataset", sort=False)}
            parts = files[path]
            picked = {}
            for name, part in parts.items():
                if trained_on and name not in clean:
                    raise SrtError(f"test set '{name}' of {path} is not in the table of clean rows: rerun the audit")
                picked[name] = part[part["problem_id"].isin(clean[name])] if trained_on else part
                if entry["step"] == 0:
                    base[entry["run"], name] = part.set_index("problem_id")
                gain = _gain(base.get((entry["run"], name)), picked[name])
                rows.append({**head, "dataset": name, **_row([part], [picked[name]]), **gain})
            if len(parts) > 1:
                suite = Path(path).name.split(".")[0]
                some = _row(list(parts.values()), [p for p in picked.values() if len(p)])
                rows.append({**head, "dataset": f"{MEAN}{suite}", **some, **_gain(None, None)})
    return pd.DataFrame(rows)


def _row(parts: list[pd.DataFrame], clean: list[pd.DataFrame]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "problems": sum(map(len, parts)),
        "clean": sum(map(len, clean)),
        "sets": len(parts),
        "sets_clean": sum(bool(len(part)) for part in clean),
    }
    for metric, column in METRICS:
        for suffix, some in (("", parts), ("_clean", clean)):
            strata = [part[column].to_numpy(float)[None, :] for part in some if len(part)]
            values = mean_interval(strata) if strata else (np.nan, np.nan, np.nan)
            out |= dict(zip((f"{metric}{suffix}{end}" for end in ("", "_lo", "_hi")), values, strict=True))
    return out


def _gain(before: pd.DataFrame | None, after: pd.DataFrame | None) -> dict[str, float]:
    if before is None or after is None or not len(after):
        values = (np.nan, np.nan, np.nan)
    else:
        first = before["pass_rate"].reindex(after["problem_id"]).to_numpy(float)
        values = one_run_interval(after["pass_rate"].to_numpy(float) - first, share=False)
    return dict(zip(("gain_clean", "gain_clean_lo", "gain_clean_hi"), values, strict=True))
