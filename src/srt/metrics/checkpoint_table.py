"""The table of `evaluate`: avg@n, maj@k and pass@k of checkpoints with intervals, and their gain over the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from srt.artefacts.evaluations import BASE
from srt.artefacts.paths import Paths
from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.config.evaluation import Evaluate
from srt.metrics.intervals import mean_interval
from srt.metrics.statistics import maj_at_k, pass_at_k

GROUPS = ["dataset", "problem_id", "n", "pass_rate", "majority_correct"]
SCORES = ["dataset", "problem_id", "class_id", "correct"]
COLUMNS = (
    "model", "suite", "dataset", "metric", "k", "value", "lo", "hi", "gain", "gain_lo", "gain_hi", "n", "n_problems",
    "n_seeds",
)  # fmt: skip
MEAN = "mean of "
# By metric and k, the values of problems by their ids, float [problems]: means over seeds.
Values = dict[tuple[str, int], pd.Series]


def checkpoint_table(spec: Mapping[str, Any]) -> pd.DataFrame:
    """One row per model, data set, metric and k; a suite of several data sets has rows of their mean as well.

    spec: results, evaluate (`srt.artefacts.evaluations.evaluated`), k (the key `evaluate.k`). value, lo, hi: the mean
    over problems with its 95 % interval. gain: value minus that of the first model on the problems that both were
    asked, paired by problem. Responses to different problems are drawn independently, also within a seed, so the spread
    between problems holds that of the responses, and a further seed makes it smaller. (Seeds of training are another
    matter: one seed moves all problems.)
    """
    paths, models = Paths(spec["results"]), list(dict.fromkeys(one["model"] for one in spec["evaluate"]))
    asked = Evaluate(suites=["any"], k=spec["k"])
    rows = []
    for suite in dict.fromkeys(one["suite"] for one in spec["evaluate"]):
        found: dict[str, dict[str, Values]] = {}
        for model in models:
            files = [
                (paths.groups(f"{BASE}{model}", one["stored"]), paths.scores(f"{BASE}{model}", one["stored"]))
                for one in spec["evaluate"]
                if (one["model"], one["suite"]) == (model, suite)
            ]
            found[model] = _values(files, asked)
            rows += _rows(model, suite, found[model], found[models[0]] if model != models[0] else None, len(files))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _values(files: Sequence[tuple[str, str]], asked: Evaluate) -> dict[str, Values]:
    """The values of one model on one suite, by data set; one pair of files (groups, scores) per seed."""
    seeds = [_seed(groups, scores, asked) for groups, scores in files]
    return {
        dataset: {key: sum(seed[dataset][key] for seed in seeds) / len(seeds) for key in first}
        for dataset, first in seeds[0].items()
    }


def _seed(groups: str, scores: str, asked: Evaluate) -> dict[str, Values]:
    frame, found = read_parquet(groups, GROUPS).to_pandas(), {}
    responses = read_parquet(scores, SCORES).to_pandas()
    votes = dict(list(responses.groupby(["dataset", "problem_id"], sort=False)))
    for dataset, part in frame.groupby("dataset", sort=False):
        sizes = part["n"].unique()
        if len(sizes) > 1:
            raise SrtError(f"{groups}: problems of '{dataset}' have {min(sizes)} to {max(sizes)} samples: sample again")
        n, rate = int(sizes[0]), part["pass_rate"].to_numpy(float)
        majority = part["majority_correct"].to_numpy(float)
        ids = part["problem_id"].tolist()
        answers = [_classes(votes[dataset, one], bool(right)) for one, right in zip(ids, majority, strict=True)]
        generator = np.random.default_rng(0)
        values = {("avg", n): rate}
        for k in asked.sizes(n):
            drawn = [maj_at_k(*answer, k, generator) for answer in answers] if 1 < k < n else None
            values["maj", k] = np.array(drawn) if drawn else majority if k == n else rate
            values["pass", k] = np.asarray(pass_at_k(np.full(len(part), n), np.round(rate * n).astype(int), k))
        found[str(dataset)] = {key: pd.Series(row, index=ids) for key, row in values.items()}
    return found


def _classes(responses: pd.DataFrame, majority: bool) -> tuple[np.ndarray, np.ndarray]:
    """The classes of a problem's responses, and whether each class is correct; class 0 is the majority."""
    classes, right = responses["class_id"].to_numpy(int), responses["correct"].to_numpy(bool)
    correct = np.array([right[classes == each].mean() > 0.5 for each in range(classes.max() + 1)], dtype=bool)
    if len(correct):
        correct[0] = majority
    return classes, correct


def _rows(
    model: str, suite: str, own: dict[str, Values], first: dict[str, Values] | None, seeds: int
) -> list[dict[str, Any]]:
    """The rows of one model on one suite; `first`: the values of the first model, None for itself."""
    sets: list[tuple[str, list[str]]] = [(name, [name]) for name in own]
    sets += [(f"{MEAN}{suite}", list(own))] if len(own) > 1 else []
    rows = []
    for dataset, members in sets:
        common = [key for key in own[members[0]] if all(key in own[name] for name in members)]
        for metric, k in common:
            parts = [own[name][metric, k] for name in members]
            value, lo, hi = mean_interval([part.to_numpy()[None] for part in parts])
            gain = (np.nan, np.nan, np.nan)
            if first is not None and all((metric, k) in first.get(name, {}) for name in members):
                gain = _gain(parts, [first[name][metric, k] for name in members])
            numbers = (value, lo, hi, *gain)
            n = max(key[1] for key in own[members[0]] if key[0] == "avg")
            size = sum(map(len, parts))
            rows.append(dict(zip(COLUMNS, (model, suite, dataset, metric, k, *numbers, n, size, seeds), strict=True)))
    return rows


def _gain(own: Sequence[pd.Series], first: Sequence[pd.Series]) -> tuple[float, float, float]:
    """The difference on the problems of both, paired by problem."""
    strata = [(mine - other).dropna().to_numpy()[None] for mine, other in zip(own, first, strict=True)]
    return mean_interval(strata, share=False) if all(part.size for part in strata) else (np.nan, np.nan, np.nan)


def to_markdown(table: pd.DataFrame) -> str:
    """The table for people: a row per model and data set, with avg@n, maj and pass at the largest k, and the gain."""
    lines, several = [], table["suite"].nunique() > 1
    for (suite, dataset), part in table.groupby(["suite", "dataset"], sort=False):
        last = {metric: rows["k"].max() for metric, rows in part.groupby("metric", sort=False)}
        one = part[part["metric"] == "avg"].iloc[0]
        heads = [f"{metric}@{k}" for metric, k in last.items()]
        told = f"{one.n_problems} problems, {one.n_seeds} seed{'' if one.n_seeds == 1 else 's'} of {one.n} responses"
        name = f"{dataset} ({suite})" if several and suite not in (dataset, dataset[len(MEAN) :]) else dataset
        lines += [f"**{name}**: {told}", "", f"| model | {' | '.join(heads)} | gain of avg |"]
        lines += ["|---" * (len(heads) + 2) + "|"]
        for model, rows in part.groupby("model", sort=False):
            shown = [rows[(rows["metric"] == metric) & (rows["k"] == k)].iloc[0] for metric, k in last.items()]
            cells = [_cell(row.value, row.lo, row.hi) for row in shown]
            cells.append(_cell(shown[0].gain, shown[0].gain_lo, shown[0].gain_hi, sign="+"))
            lines.append(f"| {model} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(
        [*lines, "In brackets: 95 % intervals over problems. Gain: over the first model, on the same problems.", ""]
    )


def _cell(value: float, lo: float, hi: float, sign: str = "") -> str:
    return "" if np.isnan(value) else f"{value:{sign}.3f} [{lo:{sign}.3f}, {hi:{sign}.3f}]"
