"""The table of `evaluate`, on tables whose truth is known, and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srt.artefacts.paths import Paths
from srt.common.io import write_parquet
from srt.figures.checkpoints import draw_checkpoints
from srt.metrics.checkpoint_table import checkpoint_table, to_markdown
from srt.metrics.intervals import one_run_interval

N = 4


def write(results: Path, model: str, stored: str, right: dict[str, list[int]]) -> None:
    """Groups and scores of a model: of each problem's N responses the first `right` say 7, which is correct."""
    groups, scores = [], []
    for dataset, counts in right.items():
        for problem, count in enumerate(counts):
            key = {"dataset": dataset, "problem_id": f"p{problem}"}
            best = 2 * count >= N  # of equally many votes 7 wins here
            groups.append({**key, "n": N, "pass_rate": count / N, "majority_correct": best})
            for sample in range(N):
                found = sample < count
                scores.append({**key, "class_id": int(found != best) if count else 0, "correct": found})
    paths = Paths(str(results))
    write_parquet(paths.groups(f"base/{model}", stored), pd.DataFrame(groups))
    write_parquet(paths.scores(f"base/{model}", stored), pd.DataFrame(scores))


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """Two models and two seeds on a suite of two data sets; the second model is right once more on each problem."""
    evaluate = []
    for extra, model in enumerate(("first", "second")):
        for seed, stored in ((0, "tests"), (1, "tests-s1")):
            counts = {"a": [0 + extra, 1 + extra, 3 + extra], "b": [1 + extra, 2 + extra]}
            counts["a"][1] += seed
            write(tmp_path, model, stored, counts)
            evaluate.append({"model": model, "suite": "tests", "seed": seed, "stored": stored})
    return {"results": str(tmp_path), "evaluate": evaluate, "k": None}


def test_values_intervals_and_gains(spec: dict[str, Any]) -> None:
    table = checkpoint_table(spec).set_index(["model", "dataset", "metric", "k"])
    assert set(table.index.get_level_values("dataset")) == {"a", "b", "mean of tests"}
    first = table.loc["first", "a"]
    rates = np.array([0, 1.5, 3]) / N  # means over seeds
    assert first.loc[("avg", 4), ["value", "lo", "hi"]].tolist() == pytest.approx(one_run_interval(rates))
    # one of two correct answers: 1 - C(n-c, 2)/C(n, 2) with c = 0; 1 and 2; 3
    assert first.loc[("pass", 2), "value"] == pytest.approx((0 + (1 / 2 + 5 / 6) / 2 + 1) / 3)
    assert first.loc[("maj", 4), "value"] == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert first.loc[("maj", 1), "value"] == first.loc[("pass", 1), "value"] == first.loc[("avg", 4), "value"]
    assert first["n_problems"].eq(3).all() and first["n_seeds"].eq(2).all() and first["gain"].isna().all()
    second = table.loc["second", "a"]
    assert second.loc[("avg", 4), ["gain", "gain_lo", "gain_hi"]].tolist() == pytest.approx([0.25] * 3)
    mean = table.loc["first", "mean of tests"]
    assert mean.loc[("avg", 4), "value"] == pytest.approx((rates.mean() + 1.5 / N) / 2)
    assert mean.loc[("avg", 4), "n_problems"] == 5
    assert set(table.loc["first", "b"].loc["pass"].index) == {1, 2, 4}
    assert set(checkpoint_table({**spec, "k": [4]})["k"]) == {4}


def test_problems_that_only_one_model_was_asked_leave_the_gain(spec: dict[str, Any], tmp_path: Path) -> None:
    for stored in ("tests", "tests-s1"):
        write(tmp_path, "second", stored, {"a": [1, 2], "b": [2, 3]})
    row = checkpoint_table(spec).set_index(["model", "dataset", "metric", "k"]).loc["second", "a", "avg", 4]
    assert row["n_problems"] == 2 and row["gain"] == pytest.approx((0.25 + 0.125) / 2)


def test_the_text_and_the_figure(spec: dict[str, Any]) -> None:
    table = checkpoint_table(spec)
    text = to_markdown(table)
    assert "**a**: 3 problems, 2 seeds of 4 responses" in text and "| model | avg@4 | maj@4 | pass@4 |" in text
    assert "| first | 0.375 [" in text and "| +0.250 [+0.250, +0.250] |" in text
    files = draw_checkpoints(table)
    assert files["pdf"].startswith(b"%PDF") and files["png"].startswith(b"\x89PNG") and files == draw_checkpoints(table)
    greedy = table[(table["metric"] == "avg") | (table["k"] == 1)]  # bars
    assert draw_checkpoints(greedy)["png"] != files["png"]
