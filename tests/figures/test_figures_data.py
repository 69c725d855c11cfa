"""What figures compute from their tables, on the synthetic runs of `figure_world`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.common.io import write_parquet
from srt.figures.figure_data import FigureData
from srt.figures.render import render
from srt.figures.spec import parse_spec
from srt.metrics.intervals import kept_mean_intervals, mean_interval
from support.figure_world import World, spec_of


def test_interval_of_one_set_and_one_seed_is_the_t_interval() -> None:
    values = np.random.default_rng(3).random(41)
    half = 2.0211 * values.std(ddof=1) / np.sqrt(41)  # t of 40 degrees of freedom, from a table
    assert mean_interval([values[None]], share=False) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half), abs=1e-4
    )


def test_each_data_set_weighs_the_same() -> None:
    mean, lo, hi = mean_interval([np.ones((1, 500)), np.zeros((1, 3))])
    assert (mean, lo, hi) == (0.5, 0.5, 0.5)


def test_stratified_interval_has_the_width_of_theory() -> None:
    rng = np.random.default_rng(0)
    strata = [rng.random((1, size)) for size in (300, 80)]
    _, lo, hi = mean_interval(strata)
    error = np.sqrt(sum(part.var() / part.size for part in strata)) / 2
    assert (hi - lo) / (2 * 1.97 * error) == pytest.approx(1.0, abs=0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    problems = np.random.default_rng(0).random(200)
    alike = np.stack([problems, problems, problems])
    apart = alike + np.array([[-0.1], [0.0], [0.1]])
    narrow, wide = mean_interval([alike]), mean_interval([apart])
    assert narrow[0] == pytest.approx(wide[0])
    assert narrow == pytest.approx(mean_interval([problems[None]]), abs=1e-12)
    assert wide[2] - wide[1] > 3 * (narrow[2] - narrow[1])


def test_kept_means_against_one_column_at_a_time() -> None:
    rng = np.random.default_rng(1)
    values, keep = rng.random(50), rng.random((50, 4)) < [0.9, 0.4, 1.0, 0.0]
    lo, hi = kept_mean_intervals(values, keep)
    for column in range(3):
        assert lo[column] < values[keep[:, column]].mean() < hi[column]
    assert mean_interval([values[None]])[1:] == pytest.approx((lo[2], hi[2]), abs=1e-12)
    assert np.isnan([lo[3], hi[3]]).all()


def test_curve_is_the_mean_of_the_data_set_means(tmp_path: Path) -> None:
    world = World(tmp_path)
    runs = [world.series("srt", "SRT", seed=seed, every=500) for seed in (1, 2)]
    spec = parse_spec(spec_of(runs, ["aime24", "amc23"]))
    curve = FigureData(spec).curve(spec.panels[0].series, ("aime24", "amc23"))
    assert curve.step.tolist() == [0, 500, 1000]
    assert curve.n_problems.tolist() == [70] * 3 and curve.n_seeds.tolist() == [2] * 3
    for position, row in enumerate(curve.itertuples()):
        means = []
        for run in runs:
            rates = pd.read_parquet(run["points"][position]["groups"][0]).groupby("dataset").pass_rate.mean()
            means.append(rates[["aime24", "amc23"]].mean())
        assert row.value == pytest.approx(np.mean(means), abs=1e-12)
        assert row.lo <= row.value <= row.hi


def test_problems_are_matched_by_id_and_not_by_row(tmp_path: Path) -> None:
    world = World(tmp_path)
    run = world.series("ground_truth", "Ground truth", every=1000)
    spec = parse_spec(spec_of([run], ["aime24"]))
    straight = FigureData(spec).values(spec.panels[0].series[0].points, "aime24")
    path = run["points"][1]["groups"][0]
    write_parquet(path, pd.read_parquet(path).iloc[::-1])
    assert np.array_equal(straight, FigureData(spec).values(spec.panels[0].series[0].points, "aime24"))


def test_n_is_read_from_the_data(tmp_path: Path) -> None:
    small, large = World(tmp_path / "8", n=8), World(tmp_path / "16", n=16)
    paths = [small.groups("a", "base", 0.0, sets=("aime24",)), large.groups("b", "base", 0.0, sets=("amc23",))]
    run = {"run": "r", "label": "SRT", "method": "srt", "points": [{"step": 0, "groups": paths}]}
    spec = parse_spec(spec_of([run], ["aime24", "amc23"], metric="maj"))
    tables = FigureData(spec)
    tables.curve(spec.panels[0].series, ("aime24", "amc23"))
    assert tables.metric_label(["aime24"]) == "maj@8"
    assert tables.metric_label(["aime24", "amc23"]) == "maj@8/16"


def test_temperatures_are_told_apart_where_there_are_several(tmp_path: Path) -> None:
    """In the labels of series within a panel, in the titles of panels, and in marks on such a series or panel."""

    def run(label: str, temperature: float) -> dict:
        path = World(tmp_path / f"{label}{temperature}").groups("g", "base", 0.0, sets=("aime24",))
        write_parquet(path, pd.read_parquet(path), {"spec": {"temperature": temperature}})
        points = [{"step": 0, "groups": [path]}, {"step": 1, "groups": [path]}]
        return {"run": label.lower(), "label": label, "method": "srt", "points": points}

    def drawn(*panels: dict, **mark: object) -> tuple[set[str], set[str]]:
        marks = [{"label": "twice", "times": 2.0, **mark}]
        spec = {
            "figure": "f",
            "kind": "curves",
            "datasets": ["aime24"],
            "panels": list(panels),
            "options": {"marks": marks},
        }
        render(spec, tmp_path / "figure")
        table = pd.read_csv(tmp_path / "figure.csv", keep_default_na=False)
        assert "twice" in set(table["quantity"])
        curves = table[table["quantity"] == "avg@32"]
        return set(curves["panel"]), set(curves["series"])

    one = {"title": "DAPO", "series": [run("SRT", 1.0), run("Truth", 1.0)]}
    assert drawn(one, series="Truth") == ({"DAPO"}, {"SRT", "Truth"})
    mixed = {"title": "DAPO", "series": [run("SRT", 1.0), run("Truth", 0.6)]}
    assert drawn(mixed, series="Truth") == ({"DAPO"}, {"SRT (T = 1)", "Truth (T = 0.6)"})
    greedy, usual = ({"title": title, "series": [run("SRT", t)]} for title, t in (("Greedy", 0.0), ("at T = 1", 1.0)))
    assert drawn(greedy, usual, panel="Greedy") == ({"Greedy (T = 0)", "at T = 1"}, {"SRT"})


def test_one_data_set_with_two_n_is_refused(tmp_path: Path) -> None:
    paths = [World(tmp_path / str(n), n=n).groups("g", "base", 0.0, sets=("aime24",)) for n in (8, 16)]
    points = [{"step": step, "groups": [path]} for step, path in enumerate(paths)]
    spec = parse_spec(spec_of([{"run": "r", "label": "SRT", "method": "srt", "points": points}], ["aime24"]))
    with pytest.raises(SrtError, match=r"has 16 samples per problem in .* but 8 in "):
        FigureData(spec).curve(spec.panels[0].series, ("aime24",))
