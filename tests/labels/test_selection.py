"""Offline labels and curricula from a groups table that can be sorted by hand; the table of all evaluations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.common.io import write_parquet
from srt.labels.curriculum import easiest
from srt.labels.groups import read_groups
from srt.labels.offline_labels import offline_labels
from srt.metrics.results_table import results_table
from srt.training.training_set import join_metrics


def groups(**columns: object) -> pd.DataFrame:
    """Seven problems; c and f tie in both metrics, d never had an answer."""
    table = {
        "dataset": ["sums"] * 7,
        "problem_id": list("abcdefg"),
        "majority": ["1", "2", "3", None, "5", "6", "7"],
        "majority_correct": [True, False, True, False, True, True, False],
        "consistency_all": [0.25, 1.0, 0.5, 0.0, 0.75, 0.5, 0.875],
        "pass_rate": [0.125, 0.0, 0.5, 0.0, 0.75, 0.5, 0.25],
    }
    return pd.DataFrame(table | columns)


def test_offline_labels_are_the_majorities():
    labels = offline_labels(groups())
    assert labels.columns.tolist() == ["problem_id", "label", "consistency", "correct"]
    assert labels["problem_id"].tolist() == list("abcdefg")
    assert labels["label"].isna().tolist() == [i == 3 for i in range(7)]
    assert labels["label"].dropna().tolist() == ["1", "2", "3", "5", "6", "7"]
    assert labels["correct"].sum() == 4


@pytest.mark.parametrize(
    ("by", "fraction", "expected"),
    [
        ("majority_frequency", 1 / 3, "bge"),  # ceil(7/3) = 3
        ("majority_frequency", 4 / 7, "bgec"),  # c before f: ties in the order of the table
        ("pass_rate", 1 / 3, "ecf"),
        ("pass_rate", 0.01, "e"),
        ("pass_rate", 1.0, "ecfgabd"),
    ],
)
def test_the_easiest_part(by, fraction, expected):
    chosen = easiest(groups(), by, fraction)
    assert "".join(chosen["problem_id"]) == expected
    assert chosen.columns.tolist() == ["problem_id", by] and chosen[by].is_monotonic_decreasing


@pytest.mark.parametrize("parts", [3, 10, 100])
def test_a_share_that_is_whole_is_exact(parts):
    """0.07 of 100 rows are 7, not 8, although 0.07 * 100 is 7.000000000000001; a third of 90 is 30."""
    for size in range(parts, 400, parts):
        frame = pd.DataFrame({"problem_id": range(size), "pass_rate": 0.5})
        for part in range(1, parts):
            assert len(easiest(frame, "pass_rate", part / parts)) == size // parts * part


def test_curriculum_without_truth_is_a_sentence():
    with pytest.raises(SrtError, match="problem 'c' has no pass_rate"):
        easiest(groups(pass_rate=[0.1, 0.2, None, 0.1, 0.1, 0.1, 0.1]), "pass_rate", 1 / 3)
    assert len(easiest(groups(pass_rate=[None] * 7), "majority_frequency", 1 / 3)) == 3


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_a_fraction_is_a_fraction(fraction):
    with pytest.raises(SrtError, match="fraction"):
        easiest(groups(), "pass_rate", fraction)


def test_an_empty_or_foreign_groups_table_is_a_sentence(tmp_path):
    write_parquet(tmp_path / "x.parquet", groups().drop(columns="pass_rate"))
    with pytest.raises(SrtError, match=r"x.parquet lacks the column 'pass_rate': it is not a groups table"):
        read_groups(tmp_path / "x.parquet")
    write_parquet(tmp_path / "y.parquet", groups())
    assert read_groups(tmp_path / "y.parquet").equals(groups())


# -- metrics of a run and the results table ----------------------------------------------------------------------


def test_segments_join_and_gaps_do_not(tmp_path):
    for name, steps in (("a", [1, 2]), ("b", [3, 4]), ("c", [4, 5])):
        write_parquet(tmp_path / name, pd.DataFrame({"step": steps, "reward": [0.5] * 2}), {"run": "r"})
    frame, metadata = join_metrics([tmp_path / "a", tmp_path / "b"])
    assert frame["step"].tolist() == [1, 2, 3, 4] and metadata == {"run": "r"}
    for wrong in (["a", "c"], ["b"], ["b", "a"], ["a", "a"]):
        with pytest.raises(SrtError, match="a gap or overlap"):
            join_metrics([tmp_path / name for name in wrong])
    write_parquet(tmp_path / "d", pd.DataFrame({"reward": [0.5]}))
    with pytest.raises(SrtError, match="d lacks the column 'step'"):
        join_metrics([tmp_path / "d"])


def evaluation(folder: Path, name: str, rates: list[float]) -> str:
    frame = pd.DataFrame(
        {
            "dataset": ["sums"] * 3 + ["odd"], "problem_id": ["a", "b", "c", "d"], "n": 4, "parsed": [4, 2, 0, 4],
            "majority_correct": [True, False, False, True], "consistency_all": [1.0, 0.5, 0.0, 0.5],
            "pass_rate": rates, "mean_length": [10.0, 20.0, 30.0, 5.0], "majority": ["1", "2", None, "4"],
        }
    )  # fmt: skip
    write_parquet(folder / name, frame)
    return str(folder / name)


def entry(step: int, *files: str) -> dict:
    return {"run": "srt-s1", "label": "SRT", "method": "srt", "seed": 1, "step": step, "groups": list(files)}


def test_results_table_by_hand(tmp_path):
    base = evaluation(tmp_path, "base", [0.5, 0.25, 0.0, 0.5])
    after = evaluation(tmp_path, "after", [0.75, 0.75, 0.0, 0.25])
    table = results_table([entry(0, base), entry(5, after)]).set_index(["step", "dataset"])
    row = table.loc[(5, "sums")]
    assert row["avg"] == pytest.approx(0.5) and row["maj"] == pytest.approx(1 / 3) and row["problems"] == 3
    assert row["gain"] == pytest.approx(0.25) and row["gain_lo"] <= 0.25 <= row["gain_hi"]
    assert row["parsed"] == pytest.approx(0.5) and row["length"] == 20 and row["consistency"] == pytest.approx(0.5)
    assert table.loc[(5, "odd"), "gain"] == pytest.approx(-0.25)
    assert table.loc[(0, "sums"), "gain"] == 0 and row["avg_lo"] <= row["avg"] <= row["avg_hi"]
    unknown = results_table([entry(5, after)])
    assert np.isnan(unknown["gain"]).all() and not math.isnan(unknown["avg"].iloc[0])


def test_settings_in_which_evaluations_differ_are_columns(tmp_path):
    files = {t: evaluation(tmp_path, str(t), [0.5, 0.25, 0.0, 0.5]) for t in (0.6, 1.0)}
    for temperature, file in files.items():
        write_parquet(file, pd.read_parquet(file), {"spec": {"temperature": temperature, "top_p": 1.0}})
    table = results_table([entry(0, files[1.0]), entry(5, files[0.6])])
    assert table["temperature"].tolist() == [1.0, 1.0, 0.6, 0.6] and "top_p" not in table
    assert "temperature" not in results_table([entry(0, files[1.0]), entry(5, files[1.0])])


def test_gain_does_not_depend_on_the_order_of_entries(tmp_path):
    base = evaluation(tmp_path, "base", [0.5, 0.25, 0.0, 0.5])
    after = evaluation(tmp_path, "after", [0.75, 0.75, 0.0, 0.25])
    table = results_table([entry(5, after), entry(0, base)])
    assert table["step"].tolist() == [5, 5, 0, 0] and table["gain"].notna().all()


def test_a_groups_table_without_what_is_needed_is_a_sentence(tmp_path):
    write_parquet(tmp_path / "x", groups())
    with pytest.raises(SrtError, match="x lacks the column"):
        results_table([entry(0, str(tmp_path / "x"))])
    with pytest.raises(SrtError, match="lacks the key 'groups'"):
        results_table([{"run": "r", "label": "l", "method": "m", "seed": 1, "step": 0}])
