"""The figures of the configuration: every number of both versions, what each asks for, and what the new kinds draw."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srt.artefacts.evaluations import evaluation_spec
from srt.common.errors import SrtError
from srt.config import load_config, read_yaml
from srt.config.root import Config
from srt.figures import KINDS, render
from srt.figures.figure_data import FigureData
from srt.figures.resolve import resolve_figure
from srt.figures.spec import parse_spec
from srt.figures.style import METHODS, look, looks
from srt.metrics.alarm import collapse_alarm
from srt.metrics.early_stopping import early_stopping
from srt.metrics.intervals import mean_interval, ratio_interval
from support import ROOT
from support.dag import copy_of_the_tree, jobs, snakemake
from support.figure_files import write_inputs

CONFIGS = ("config/config.yaml", "config/smoke.yaml")


def load(main: str, **changes: Any) -> Config:
    return load_config({**read_yaml(ROOT / main), **changes}, ROOT, main, [])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The full configuration with one seed and results of its own."""
    return load(CONFIGS[0], seeds=1, results=str(tmp_path_factory.mktemp("results")))


def table(config: Config, name: str, folder: Path) -> pd.DataFrame:
    """Draw a figure of the configuration from synthetic tables; returns its CSV."""
    spec, inputs = resolve_figure(config, name)
    write_inputs(config, inputs)
    paths = render(spec, folder / name)
    assert all(path.stat().st_size > 200 for path in paths)
    return pd.read_csv(paths[-1])


def names(config: Config) -> set[str]:
    return {name for figure, entry in config.figures.items() for name in (figure, *entry.aliases)}


def test_every_figure_of_both_versions_is_a_target(full: Config) -> None:
    first = {*(f"fig{n}" for n in range(1, 18)), "table1"}
    second = {*(f"v2_fig{n}" for n in range(1, 35)), "v2_table1", "v2_table2", "v2_table3"}
    assert first | second <= names(full)
    assert first <= set(full.figures)
    assert {"fig1", "fig5", "fig10", "fig16"} <= set(load(CONFIGS[1]).figures)
    assert {entry.kind for entry in full.figures.values()} == set(KINDS)


@pytest.mark.parametrize("main", CONFIGS)
def test_every_figure_asks_for_files_that_rules_make(main: str) -> None:
    config = load(main)
    runs = {instance for run in config.runs for instance in config.instances(run)}
    for name, figure in config.figures.items():
        spec, inputs = resolve_figure(config, name)
        if figure.kind != "examples":  # whose paths are options
            parse_spec(spec)
        assert bool(inputs) == (figure.kind != "scheme"), name
        assert len(json.dumps(spec)) < 60_000, f"{name}: a command line holds 128 KiB"
        assert (ROOT / "workflow" / "report" / f"{name}.rst").is_file(), f"{name} has no caption"
        caption = (ROOT / "workflow" / "report" / f"{name}.rst").read_text(encoding="utf-8")
        says = ("captions.bands", "captions.whiskers", "Bands are 95 % intervals")
        assert figure.kind in ("scheme", "examples") or any(text in caption for text in says), name
        for path in inputs:
            part = path.removeprefix(f"{config.results}/")
            if match := re.fullmatch(r"runs/([\w-]+)/metrics\.parquet", part):
                assert match[1] in runs
            elif match := re.fullmatch(r"eval/(.+)/(\w+)\.(?:groups|samples)\.parquet", part):
                checkpoint, suite = match[1], match[2]
                assert config.members(suite)
                if checkpoint.startswith("base/"):
                    assert checkpoint.removeprefix("base/") in config.models
                    continue
                instance, step = checkpoint.split("/step-")
                assert int(step) in config.entry(instance)[1].checkpoints, path
            else:
                assert part.removeprefix("data/").removesuffix(".parquet") in config.datasets, path


def test_a_figure_asks_for_no_more_than_it_shows(full: Config) -> None:
    def asked(name: str) -> tuple[set[str], set[str]]:
        parts = [path.removeprefix(f"{full.results}/") for path in resolve_figure(full, name)[1]]
        evaluated = [part for part in parts if part.startswith("eval/")]
        return {part.split("/")[1] for part in parts}, {Path(part).name.split(".")[0] for part in evaluated}

    assert asked("fig10") == ({"srt_dapo-s1", "gt_dapo-s1", "base"}, {"core"})
    assert asked("fig11") == ({"srt_math12k-s1", "gt_math12k-s1", "base"}, {"core", "math500"})
    assert asked("v2_fig5")[0] >= {"base", "gt_bitwise_2-s1", "srt_bitwise_3-s1", "srt_knights_9-s1"}
    assert asked("v2_fig5")[1] == {
        *(f"bitwise_{n}_avg16" for n in (2, 3, 4)),
        *(f"knights_{n}_avg16" for n in (2, 3, 5, 7, 9)),
    }
    # early stopping is marked only where existing samples allow it; it never requests samples of the validation set
    assert asked("v2_fig6")[1] == {"math500"}
    assert all("validation" not in s for p in resolve_figure(full, "v2_fig6")[0]["panels"] for s in p["series"])
    assert all(s["validation"] for s in resolve_figure(full, "fig10")[0]["panels"][0]["series"])


@pytest.mark.slow
def test_snakemake_plans_one_figure_alone_and_knows_its_other_number(tmp_path: Path) -> None:
    """`snakemake -n fig10` plans the segments and samples of two runs and one figure; `v2_fig7` is Figure 3."""
    folder = copy_of_the_tree(tmp_path)

    def planned(target: str) -> tuple[dict[str, int], str]:
        output = snakemake(folder, "-n", "--quiet", "host", "--profile", "slurm", target, "--config", "seeds=1")
        return jobs(output), output

    config = load(CONFIGS[0], seeds=1)
    segments = sum(len(config.runs[run].checkpoints) for run in ("srt_dapo", "gt_dapo"))
    table, output = planned("fig10")
    assert table["train"] + table["train_last"] == segments and table["run_metrics"] == 2
    assert table["sample"] == table["score"] == segments + 1, "each checkpoint and the base model, on one suite"
    assert table["base_model"] == table["fig10"] == 1
    assert {name for name in table if name.startswith(("fig", "v2_"))} == {"fig10"}
    assert "math12k" not in output and "14b" not in output
    assert planned("v2_fig7")[0]["fig3"] == 1


@pytest.mark.slow
def test_a_climb_adds_up_the_steps_of_its_chain(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "v2_fig5", tmp_path)
    levels = drawn[(drawn.panel == "Knights and knaves") & (drawn.quantity == "avg@4")]
    ends = levels.groupby("dataset", sort=False).step.agg(["min", "max"])
    assert ends.index.tolist() == [f"knights_{n}_test" for n in (2, 3, 5, 7, 9)]
    assert ends["min"].tolist() == [0, 500, 1000, 1500, 2000] and ends["max"].tolist() == [500, 1000, 1500, 2000, 2500]
    bitwise = drawn[(drawn.panel == "Bitwise arithmetic") & (drawn.quantity == "maj@4")]
    assert bitwise.groupby("runs", sort=False).step.min().to_dict() == {
        "gt_bitwise_2-s1": 0, "srt_bitwise_3-s1": 950, "srt_bitwise_4-s1": 1450,
    }  # fmt: skip
    # a level's first point is the last model of the level before, on the new level's problems
    path = f"{full.results}/eval/srt_knights_3-s1/step-500/knights_5_avg16.groups.parquet"
    first = levels[levels.dataset == "knights_5_test"].iloc[0]
    assert first.value == pytest.approx(pd.read_parquet(path).pass_rate.mean()) and first.step_of_run == 0
    assert set(levels.method) == {"ground_truth", "srt"}
    stated = drawn[drawn.quantity == "where the warm-up ends"]
    assert stated.value.tolist() == [0.97, 0.99] and set(stated.source) == {"v2, Appendix B.3"}


def test_a_chain_is_cut_where_the_next_run_starts(full: Config) -> None:
    runs = dict(full.runs)
    init = runs["srt_bitwise_3"].init
    assert init is not None
    runs["srt_bitwise_3"] = runs["srt_bitwise_3"].model_copy(update={"init": init.model_copy(update={"step": 380})})
    spec, _ = resolve_figure(full.model_copy(update={"runs": runs}), "v2_fig5")
    first, second = spec["panels"][0]["series"][:2]
    assert [point["step"] for point in first["points"]] == [0, 190, 380] and second["offset"] == 380


def test_rows_of_metrics_and_the_fixed_teacher(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "v2_fig2", tmp_path)
    curves = drawn[drawn.quantity.isin(["avg@4", "maj@4"])]
    assert curves.groupby(["panel", "quantity"]).ngroups == 6 and set(curves.series) == {"SRT", "Fixed teacher"}
    run, last = "teacher_family_5-s1", full.runs["teacher_family_5"].steps
    groups = pd.read_parquet(f"{full.results}/eval/{run}/step-{last}/family_5_avg16.groups.parquet")
    row = curves[(curves.runs == run) & (curves.step == last)].set_index("quantity").value
    assert row["avg@4"] == pytest.approx(groups.pass_rate.mean())
    assert row["maj@4"] == pytest.approx(groups.majority_correct.mean())


def test_shares_with_an_answer_are_pooled_over_responses(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "v2_fig17", tmp_path)
    path = f"{full.results}/eval/gt_bitwise_2-s1/step-950/bitwise_3_avg16.groups.parquet"
    groups = pd.read_parquet(path)
    start = drawn[(drawn.dataset == "bitwise_3_test") & (drawn.step == 0)].set_index("quantity")
    assert start.value["share with an answer"] == pytest.approx(groups.parsed.sum() / groups.n.sum())
    correct = np.minimum(groups.pass_rate * groups.n, groups.parsed)
    assert start.value["correct among answers"] == pytest.approx(correct.sum() / groups.parsed.sum())
    assert (start.lo <= start.value).all() and (start.value <= start.hi).all()


def test_ratio_interval_is_the_mean_where_denominators_are_equal() -> None:
    values = np.random.default_rng(0).random((2, 30))
    ones = np.ones_like(values)
    assert ratio_interval([(values, ones)]) == pytest.approx(mean_interval([values]), abs=1e-12)
    assert np.isnan(ratio_interval([(0 * values, 0 * ones)])).all()
    half = ones * [[1.0], [0.0]]  # a seed without a denominator has no ratio
    assert ratio_interval([(values * half, half)])[0] == pytest.approx(values[0].mean())


@pytest.mark.slow
def test_alarm_and_early_stopping_are_those_of_their_modules(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "fig10", tmp_path)
    alarms = drawn[drawn.quantity == "collapse alarm"].set_index("runs").step
    for run in ("srt_dapo-s1", "gt_dapo-s1"):
        rang = collapse_alarm(pd.read_parquet(f"{full.results}/runs/{run}/metrics.parquet"))
        assert (run in alarms.index) == (rang is not None) and (rang is None or alarms[run] == rang)
    assert list(alarms.index) == ["srt_dapo-s1"], "the alarm rings once, in the run that collapses"
    stops = drawn[drawn.quantity == "early stopping"]
    assert len(stops) == 6, "two runs, three test sets"
    entries = [run for run in evaluation_spec(full)["runs"] if run["run"] in ("srt_dapo", "gt_dapo")]
    spec = {"results": full.results, "runs": [{**run, "suites": ["core"]} for run in entries]}
    expected = early_stopping(spec).set_index(["run", "dataset"])
    for row in stops.itertuples():
        assert row.step == expected.stop[row.runs, row.dataset]
        assert row.value == pytest.approx(expected.at_stop[row.runs, row.dataset])


@pytest.mark.slow
def test_statements_stand_where_the_text_puts_them(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "fig2", tmp_path)
    base = drawn[(drawn.series == "SRT") & (drawn.step == 0)].set_index("panel").value
    twice = drawn[drawn.quantity == "twice the base"].set_index("panel").value
    assert twice.to_dict() == pytest.approx((2 * base).to_dict()) and len(twice) == 3
    end = drawn[(drawn.series == "Ground truth") & (drawn.panel == "DAPO") & (drawn.quantity == "avg@8")].value.iloc[-1]
    stated = drawn[drawn.quantity == "75 % of ground truth"]
    assert stated.value.tolist() == pytest.approx([0.75 * end]) and stated.source.tolist() == ["§4.1"]
    span = drawn[drawn.quantity == "peak in the paper"]
    assert (span.step.item(), span.step_end.item(), span.panel.item()) == (400, 600, "DAPO")
    reward = table(full, "fig16", tmp_path)
    assert reward[reward.quantity == "the paper's easy third"].value.tolist() == [0.9]


def test_panels_of_models_with_another_n_say_theirs(full: Config, tmp_path: Path) -> None:
    """Llama is sampled once, greedily; the other three models of the figure 32 times."""
    drawn = table(full, "v2_fig3", tmp_path)
    said = drawn[drawn.quantity.str.startswith("avg")].groupby("panel", sort=False).quantity.unique().map(list)
    assert said.tolist() == [["avg@8"], ["avg@8"], ["avg@1"], ["avg@8"]]


@pytest.mark.slow
@pytest.mark.long
def test_every_figure_can_be_drawn(full: Config, tmp_path: Path) -> None:
    """With the configured number of samples, since a figure that fails after all training is expensive."""
    for name in full.figures:
        assert len(table(full, name, tmp_path)), name


def test_seeds_give_their_range_and_the_interval_of_problems_and_seeds(tmp_path: Path) -> None:
    config = load(CONFIGS[0], seeds=3, results=str(tmp_path))
    spec, inputs = resolve_figure(config, "v2_fig33")
    write_inputs(config, inputs)
    parsed = parse_spec(spec)
    seeds = parsed.panels[0].groups_of_seeds()["SRT"]
    curve = FigureData(parsed).curve(seeds, ("math500",))
    paths = [run.points[-1].groups[0] for run in seeds]
    rates = np.stack([pd.read_parquet(path).pass_rate for path in paths])
    last = curve.iloc[-1]
    assert last.n_seeds == 3 and last.value == pytest.approx(rates.mean())
    assert (last.seed_lo, last.seed_hi) == pytest.approx((rates.mean(axis=1).min(), rates.mean(axis=1).max()))
    assert (last.value, last.lo, last.hi) == pytest.approx(mean_interval([rates]))


def test_bars_hold_every_level_and_the_scheme_its_arrows(full: Config, tmp_path: Path) -> None:
    drawn = table(full, "v2_levels", tmp_path)
    assert drawn[drawn.quantity == "avg@4"].groupby("dataset", sort=False).size().tolist() == [
        2,
        3,
        2,
        2,
        3,
        2,
        2,
        2,
        2,
        2,
    ]
    gains = drawn[drawn.quantity == "gain"]
    assert len(gains) == 12 and gains.lo.notna().all()
    # a panel's own step: SRT trains on, and is compared with its teacher where that ends
    (path,) = [f for f in resolve_figure(full, "v2_levels")[1] if "srt_family_5-s1/step-" in f]
    assert full.runs["srt_family_5"].steps == 1500 and "/step-500/" in path
    scheme = table(full, "fig1", tmp_path)
    assert set(scheme.method) == {"ground_truth", "srt"}
    assert ("responses", "majority vote") in set(zip(scheme["from"], scheme["to"], strict=True))


MISTAKES: dict[str, tuple[dict, str]] = {
    "two places": ({"marks": [{"step": 1, "value": 0.5, "label": "x"}]}, "needs exactly one of step, value and times"),
    "span": ({"marks": [{"step": 5, "to": 4, "label": "x"}]}, "to: a span needs a smaller step"),
    "series": ({"marks": [{"times": 2, "series": "SRTT", "label": "x"}]}, "no run has the label 'SRTT' (did you mean"),
    "data set": ({"marks": [{"value": 1, "dataset": "math500", "label": "x"}]}, "data set 'math500' is not drawn"),
    "metric": ({"metrics": ["mean"]}, "metrics"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_option_is_one_sentence(name: str) -> None:
    options, expected = MISTAKES[name]
    figures = {
        "fig2": {
            "kind": "curves",
            "title": "t",
            "datasets": ["aime24"],
            "panels": [{"runs": ["srt_dapo"]}],
            "options": options,
        }
    }
    with pytest.raises(SrtError) as caught:
        inline(figures)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def inline(figures: dict) -> Config:
    """The full configuration with these figures in place of its own."""
    raw = read_yaml(ROOT / CONFIGS[0])
    files = {section: path for section, path in raw["files"].items() if section != "figures"}
    return load_config({**raw, "files": files, "figures": figures}, ROOT, CONFIGS[0], [])


def test_wrong_figures_are_one_sentence() -> None:
    curves = {"kind": "curves", "title": "t", "panels": [{"runs": ["srt_aime"]}]}
    wrong = [
        ({"f": {**curves, "datasets": ["math500"]}}, "run 'srt_aime' is not evaluated on 'math500': add"),
        ({"f": curves}, "datasets: is empty: name at least one test set"),
        ({"f": {**curves, "kind": "climb", "datasets": ["math500"]}}, "is evaluated on none of the figure's data sets"),
        ({"f": {**curves, "kind": "scheme"}}, "panels: kind scheme shows no run"),
        ({"f": {**curves, "datasets": ["aime24"], "aliases": ["train"]}}, "'train' is a figure, run, rule or"),
        ({"f": {**curves, "datasets": ["aime24"], "aliases": ["F 2"]}}, "'F 2' must be lower-case letters"),
        ({"f": {"kind": "gap", "title": "t", "model": "m", "datasets": ["aime24"]}}, "kind gap needs suite"),
    ]  # fmt: skip
    for figures, expected in wrong:
        with pytest.raises(SrtError) as caught:
            inline(figures)
        assert expected in str(caught.value), expected


# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "none": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color: str, matrix: np.ndarray) -> np.ndarray:
    """CIELAB of a #RRGGBB colour as a reader with a colour vision deficiency sees it."""
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str) -> float:
    """The smallest colour difference over all readers."""
    return min(float(np.linalg.norm(lab(one, np.array(m)) - lab(other, np.array(m)))) for m in DEFICIENCIES.values())


def test_methods_stay_apart_for_colour_blind_readers(full: Config) -> None:
    for one, other in itertools.combinations(METHODS, 2):
        assert distance(look(one).color, look(other).color) > 9, (one, other)
    for name in full.figures:
        for panel in resolve_figure(full, name)[0]["panels"]:
            drawn = looks([(series["label"], series["method"]) for series in panel["series"]])
            for one, other in itertools.combinations(drawn.values(), 2):
                assert distance(one.color, other.color) > 11, (name, panel["title"])
                assert one.marker != other.marker and one.line != other.line
