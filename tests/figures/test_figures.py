"""Every kind of figure drawn from real files by the command line: outputs, their bytes, errors and the house style."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.common.io import write_parquet
from srt.config import read_yaml
from srt.config.figures import OPTIONS
from srt.figures import KINDS, dynamics, render, style
from srt.figures.dynamics import running_mean
from srt.figures.examples import wrapped
from srt.figures.figure_data import FigureData
from srt.figures.render import evidence_note
from srt.figures.spec import Series, parse_spec
from srt.figures.style import METHODS, look, looks
from support import ROOT
from support.figure_world import World, examples_spec, spec_of

TESTS = ["aime24", "aime25", "amc23"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def specs(world: World) -> dict[str, dict]:
    """One spec per kind of figure, with fewer seeds and steps than a paper has."""
    srt = [world.series("srt", "SRT", seed=seed, every=250) for seed in (1, 2)]
    truth = world.series("ground_truth", "Ground truth", every=250)
    base = {"run": "base", "label": "Base", "method": "base", "points": srt[0]["points"][:1], "metrics": None}
    tuned = [world.series("test_time", "Test-time SRT", prefix=f"{name}-", last=True) for name in TESTS]
    return {
        "fig2": spec_of([*srt, truth], TESTS),
        "fig3": spec_of([srt[0], truth], TESTS, figure="fig3", kind="dynamics"),
        "fig4": {
            "figure": "fig4", "kind": "bars", "metric": "maj",
            "panels": [
                {"title": name.upper(), "datasets": [name], "series": [run]}
                for name, run in zip(TESTS, tuned, strict=True)
            ],
        },
        "fig6": spec_of(
            [srt[0]], [*TESTS, "dapo_val"], figure="fig6", average=False, options={"validation_dataset": "dapo_val"}
        ),
        "fig9": spec_of([base], TESTS, figure="fig9", kind="gap"),
        "table1": examples_spec(world),
    }  # fmt: skip


def draw(spec: dict, folder: Path, change: Callable[[dict], None] | None = None) -> pd.DataFrame:
    """Render (a changed copy of) a spec and return its CSV."""
    spec = copy.deepcopy(spec)
    if change:
        change(spec)
    paths = render(spec, folder / spec["figure"])
    return pd.read_csv(paths[-1])


def error(spec: dict, folder: Path, change: Callable[[dict], None]) -> str:
    """The one sentence that a changed spec is refused with; nothing may be written."""
    with pytest.raises(SrtError) as caught:
        draw(spec, folder, change)
    assert not folder.exists() or not list(folder.iterdir())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig2", "fig3", "fig4", "fig6", "fig9", "table1"])
def test_every_kind_writes_three_files_from_the_command_line(name: str, specs: dict, tmp_path: Path) -> None:
    """Equal bytes from this process and from one with another hash seed, time zone and matplotlib settings."""
    (tmp_path / "matplotlibrc").write_text("xtick.direction: in\naxes.facecolor: yellow\nfont.size: 30\n")
    (tmp_path / "spec.json").write_text(json.dumps(specs[name]))
    spec = json.dumps(specs[name]) if name == "fig2" else f"@{tmp_path / 'spec.json'}"
    render(specs[name], tmp_path / "here" / name)
    prefix = tmp_path / "there" / name
    environment = {**os.environ, "PYTHONHASHSEED": "2", "TZ": "UTC+2", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    command = [sys.executable, str(ROOT / "scripts" / "figure.py"), "--spec", spec, "--out-prefix", str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{prefix}{suffix}" for suffix in (".pdf", ".png", ".csv")]
    outputs = []
    for folder in ("here", "there"):
        files = sorted((tmp_path / folder).iterdir())
        assert [path.name for path in files] == [f"{name}.csv", f"{name}.pdf", f"{name}.png"]
        outputs.append({path.name: path.read_bytes() for path in files})
    assert outputs[0] == outputs[1]
    assert outputs[0][f"{name}.pdf"].startswith(b"%PDF") and b"/CreationDate" not in outputs[0][f"{name}.pdf"]
    assert outputs[0][f"{name}.png"].startswith(PNG)


def test_curves_table_holds_what_is_drawn(specs: dict, tmp_path: Path) -> None:
    table = draw(specs["fig2"], tmp_path)
    assert table.series.drop_duplicates().tolist() == ["SRT", "Ground truth"]
    alarms = table[table.quantity == "collapse alarm"]
    assert set(alarms.runs) == {"srt-s1", "srt-s2"} and alarms.step.between(600, 1000).all()
    table = table[table.quantity != "collapse alarm"]
    assert table.runs.unique().tolist() == ["srt-s1+srt-s2", "ground_truth-s1"]
    assert set(table.quantity) == {"avg@32"} and set(table.dataset) == {"aime24+aime25+amc23"}
    assert table.groupby("series").n_seeds.first().to_dict() == {"SRT": 2, "Ground truth": 1}
    assert ((table.lo <= table.value) & (table.value <= table.hi)).all()
    srt = table[table.series == "SRT"].set_index("step").value
    assert srt[500] > 1.3 * srt[0] and srt[1000] < 0.1 * srt[0]


def test_early_stop_is_the_best_step_of_the_validation_set(specs: dict, tmp_path: Path) -> None:
    table = draw(specs["fig6"], tmp_path)
    validation = table[(table.dataset == "dapo_val") & (table.quantity == "avg@32")]
    best = validation.step[validation.value.idxmax()]
    stops = table[table.quantity == "early stopping"]
    assert len(stops) == 4 and set(stops.step) == {best} and set(stops.dataset) == {"dapo_val"}
    assert 0 < best < 1000


def test_marks_are_drawn_and_listed(specs: dict, tmp_path: Path) -> None:
    marks = [{"step": 400, "to": 600, "label": "peak"}, {"step": 700, "label": "alarm", "panel": "DAPO"}]
    plain = render(specs["fig2"], tmp_path / "plain")[1].read_bytes()
    table = draw(specs["fig2"], tmp_path, lambda spec: spec.update(options={"marks": marks}))
    assert (tmp_path / "fig2.png").read_bytes() != plain
    drawn = table[table.quantity.isin(["peak", "alarm"])]
    assert drawn.step.tolist() == [400, 700] and drawn.step_end.tolist()[0] == 600


def test_dynamics_smooth_long_runs_and_keep_the_raw_values(specs: dict, world: World, tmp_path: Path) -> None:
    table = draw(specs["fig3"], tmp_path)
    assert table.quantity.drop_duplicates().tolist() == ["avg@32", "collapse alarm", "reward", "kl"]
    reward = table[(table.quantity == "reward") & (table.series == "SRT")]
    stored = pd.read_parquet(world.root / "srt-s1.metrics.parquet")
    assert len(reward) == 1000 and np.allclose(reward.raw, stored.reward, atol=1e-9)
    window = 1000 // 50 | 1
    assert reward.value.iloc[500] == pytest.approx(stored.reward[500 - window // 2 : 501 + window // 2].mean())
    plain = draw(specs["fig3"], tmp_path, lambda spec: spec.update(options={"smooth": 1, "quantities": ["entropy"]}))
    plain = plain[plain.quantity != "collapse alarm"]
    assert set(plain.quantity) == {"entropy"} and np.allclose(plain.value, plain.raw)


@pytest.mark.parametrize(("shift", "inside"), [(0.0, True), (-3.0, False), (3.0, False)])
def test_a_reward_for_confidence_has_its_own_scale(specs: dict, world: World, tmp_path: Path, shift, inside) -> None:
    stored = pd.read_parquet(world.root / "srt-s1.metrics.parquet")
    stored.assign(reward=stored.reward + shift).to_parquet(tmp_path / "shifted.parquet")
    spec = copy.deepcopy(specs["fig3"]) | {"options": {"quantities": ["reward"]}}
    for panel in spec["panels"]:
        panel["series"] = [{**panel["series"][0], "metrics": str(tmp_path / "shifted.parquet")}]
    figure, _ = dynamics.draw(parse_spec(spec))
    low, high = figure.axes[0].get_ylim()
    values = figure.axes[0].lines[0].get_ydata()
    assert low <= np.nanmin(values) and np.nanmax(values) <= high
    assert (low == 0 and high <= 1.02) == inside


def test_a_run_that_its_alarm_ended_is_drawn_to_the_evaluation_after_it(monkeypatch) -> None:
    curve = pd.DataFrame({"step": [0, 20, 40, 60]})
    run = {"run": "a-s1", "label": "A", "method": "srt", "points": [{"step": 0, "groups": ["g"]}], "datasets": ["t"]}
    stopped, other = (Series(**run, metrics="m", alarm_stops=stops) for stops in (True, False))
    for alarm, ends, drawn in ((21, [stopped] * 2, 40), (20, [stopped], 20), (21, [other], 60), (None, [stopped], 60)):
        monkeypatch.setattr(FigureData, "alarm", lambda self, run, step=alarm: step)
        assert FigureData(None).drawn(ends, curve).step.max() == drawn


def test_a_legend_lists_marks_last() -> None:
    figure, axes = style.grid(1)
    for label, gid in (("alarm", style.MARK), ("srt", None), ("truth", None)):
        axes[0].plot([0, 1], label=label, gid=gid)
    style.legend(figure, axes)
    assert [text.get_text() for text in figure.legends[0].texts] == ["srt", "truth", "alarm"]


def test_running_mean_leaves_gaps_out() -> None:
    assert running_mean(np.array([1.0, np.nan, 3.0]), 3).tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(running_mean(np.array([np.nan, np.nan]), 1)).all()


def test_bars_gain_is_paired(specs: dict, tmp_path: Path) -> None:
    table = draw(specs["fig4"], tmp_path).set_index(["dataset", "series", "quantity"])
    assert len(table) == 9 and (table.n_problems == [30] * 6 + [40] * 3).all()
    for name in TESTS:
        before, after = table.loc[(name, "Base model", "maj@32")], table.loc[(name, "Test-time SRT", "maj@32")]
        gain = table.loc[(name, "Test-time SRT", "gain")]
        assert gain.value == pytest.approx(after.value - before.value)
        assert gain.hi - gain.lo < (before.hi - before.lo) + (after.hi - after.lo)
        assert before.step == 0 and after.step == 1000 and before.method == "base"


def test_gap_ends_where_no_prompt_is_left(specs: dict, tmp_path: Path) -> None:
    table = draw(specs["fig9"], tmp_path)
    part = table[table.dataset == "aime25"].set_index(["quantity", "threshold"])
    share, majority = part.loc["share of prompts"].value, part.loc["majority-vote accuracy"]
    assert len(share) == 21 and share.iloc[0] == 1.0 and share.is_monotonic_decreasing
    assert (majority.value.isna() == (majority.n_problems == 0)).all() and majority.value.isna().any()
    amc = table[(table.dataset == "amc23") & (table.threshold == 0.5)].set_index("quantity").value
    assert amc["majority-vote accuracy"] > amc["per-prompt accuracy"]


def test_gap_counts_only_parsed_responses(tmp_path: Path) -> None:
    world = World(tmp_path / "data")
    frame = pd.read_parquet(world.groups("g", "base", 0.0, sets=("aime24",))).head(2)
    frame = frame.assign(parsed=[16, 0], majority_count=[8, 0], consistency=[0.5, 0.0], consistency_all=[0.25, 0.0])
    frame = frame.assign(pass_rate=[0.25, 0.0], majority_correct=[True, False])
    write_parquet(tmp_path / "two.groups.parquet", frame)
    point = {"step": 0, "groups": [str(tmp_path / "two.groups.parquet")]}
    run = {"run": "base", "label": "Base", "method": "base", "points": [point]}
    spec = spec_of([run], ["aime24"], figure="fig9", kind="gap")
    table = draw(spec, tmp_path).set_index(["quantity", "threshold"]).value
    assert table["per-prompt accuracy", 0.0] == 0.25 and table["per-prompt accuracy", 0.5] == 0.5
    assert table["share of prompts", 0.25] == 0.5 and table["share of prompts", 0.5] == 0.0


def test_a_figure_says_what_is_behind_it() -> None:
    rows = [("avg@32", 0.1, 30, 1), ("avg@32", 0.2, 40, 1), ("reward", 0.1, None, 3), ("collapse alarm", None, None, 1)]
    table = pd.DataFrame(rows, columns=["quantity", "lo", "n_problems", "n_seeds"])
    assert evidence_note(table) == (
        "1 seed, 30 to 40 problems, 32 samples per problem; 95 % intervals over problems only, since there is one seed"
    )
    both = pd.concat([table, table[:1].assign(n_seeds=3, quantity="maj@8")])
    assert evidence_note(both).startswith(
        "1 to 3 seeds, 30 to 40 problems, 8 or 32 samples per problem; 95 % intervals"
    )
    assert evidence_note(both).endswith("over problems and seeds, those of single seeds over problems only")
    assert evidence_note(table[3:]) == evidence_note(table[["quantity"]]) == ""


def test_examples_take_the_largest_change_and_the_first_response(specs: dict, world: World, tmp_path: Path) -> None:
    table = draw(specs["table1"], tmp_path)
    before = pd.read_parquet(world.root / "before.groups.parquet").set_index("problem_id").pass_rate
    after = pd.read_parquet(world.root / "after.groups.parquet").set_index("problem_id").pass_rate
    expected = (after - before).abs().sort_values(ascending=False, kind="stable").index[:3]
    assert set(table.problem_id) == set(expected) and len(table) == 6
    assert table.series.tolist() == ["Before training", "After training"] * 3
    assert (table.response != "second").all() and table.response[1].endswith("\\boxed{1}")
    assert "\n" in table.response[0] and "因此" in table.response[1]


@pytest.mark.slow
def test_examples_show_named_problems_in_their_order(
    specs: dict, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def named(*ids: str) -> list[str]:
        table = draw(specs["table1"], tmp_path, lambda s: _named(s, list(ids)))
        return table.problem_id.iloc[::2].tolist()

    most = draw(specs["table1"], tmp_path).problem_id.tolist()
    rest = [f"aime24-{i:03d}" for i in range(30) if f"aime24-{i:03d}" not in most]
    assert named(rest[5], rest[2]) == [rest[5], rest[2]]
    capfd.readouterr()
    # an absent problem is replaced by the one that changed most, and the log names it
    shown = named(rest[1], "amc23-000", rest[0])
    assert shown[::2] == [rest[1], rest[0]] and shown[1] in most
    told = f"problem 'amc23-000' of options.problems is not among the samples: problem '{shown[1]}', whose pass rate"
    assert told in capfd.readouterr().err
    assert "problems: must be a list" in error(specs["table1"], tmp_path / "e", lambda s: _named(s, 3))


def test_wrapped_text_keeps_its_end() -> None:
    lines = wrapped("word " * 200 + "\\boxed{7}", 20, 6)
    assert len(lines) == 6 and lines[-1].endswith("\\boxed{7}")
    assert "  …" in lines and max(map(len, lines)) <= 20
    assert wrapped("", 20, 6) == ["(empty)"] and wrapped("漢 a\nb", 20, 6) == ["□ a ↵ b"]


MISTAKES = {
    "kind": (lambda s: s.update(kind="curve"), "kind 'curve' is unknown (did you mean 'curves'?)"),
    "key": (lambda s: s.update(dataset=[]), "unknown key 'dataset' (did you mean 'datasets'?)"),
    "metric": (lambda s: s.update(metric="pass"), "metric: unknown value 'pass' (known: avg, maj)"),
    "option": (lambda s: s.update(options={"mark": []}), "kind curves has no option 'mark' (did you mean 'marks'?)"),
    "no panels": (lambda s: s.update(panels=[]), "no panels: name at least one panel"),
    "no series": (lambda s: s["panels"][0].update(series=[]), "panels: item 1: series: is empty: give at least 1"),
    "no data sets": (lambda s: s.update(datasets=[]), "datasets: is empty: give at least 1"),
    "no points": (lambda s: _run(s).update(points=[]), "series: item 1: points: is empty: give at least 1"),
    "no groups": (lambda s: _run(s)["points"][0].update(groups=[]), "points: item 1: groups: is empty"),
    "two steps": (lambda s: _run(s)["points"][1].update(step=0), "points: step 0 appears twice"),
    "text step": (lambda s: _run(s)["points"][0].update(step="first"), "step: must be a whole number, not 'first'"),
    "method": (lambda s: [r.update(method="srtt") for r in s["panels"][0]["series"]], "(did you mean 'srt'?)"),
    "mixed": (lambda s: _run(s).update(method="base"), "series 'SRT' mixes methods (base, srt)"),
    "seeds": (lambda s: _run(s)["points"].pop(), "only one of them is evaluated at step 1000"),
    "data set": (lambda s: s.update(datasets=["aime2"]), "which has aime24, aime25, amc23, dapo_val (did you"),
    "missing": (lambda s: _run(s)["points"][0].update(groups=["no.parquet"]), "no.parquet does not exist"),
    "mark": (lambda s: s.update(options={"marks": [{"step": 1}]}), "options: marks: item 1: label: is missing"),
}  # fmt: skip


def _named(spec: dict, problems: object) -> None:
    del spec["options"]["rows"]
    spec["options"]["problems"] = problems


def _run(spec: dict) -> dict:
    return spec["panels"][0]["series"][0]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(name: str, specs: dict, tmp_path: Path) -> None:
    change, expected = MISTAKES[name]
    assert expected in error(specs["fig2"], tmp_path / "out", change)


def test_mistakes_of_the_other_kinds(specs: dict, tmp_path: Path) -> None:
    def run_of(key: str, value: object) -> Callable[[dict], None]:
        return lambda spec: _run(spec).update({key: value})

    out = tmp_path / "out"
    assert "names no training metrics" in error(specs["fig3"], out, run_of("metrics", None))
    metrics = _run(specs["fig3"])["metrics"]
    write_parquet(tmp_path / "nan.parquet", pd.read_parquet(metrics).assign(kl=np.nan))
    message = error(specs["fig3"], out, run_of("metrics", str(tmp_path / "nan.parquet")))
    assert "nan.parquet has no value of 'kl' at any step" in message
    wrong = {"options": {"quantities": ["rewards"]}}
    assert "(did you mean 'reward'?)" in error(specs["fig3"], out, lambda s: s.update(wrong))
    one = _run(specs["fig4"])["points"][:1]
    assert "has one point; bars need two" in error(specs["fig4"], out, run_of("points", one))
    many = _run(specs["fig2"])["points"]
    assert "name one" in error(specs["fig9"], out, run_of("points", many))
    assert "share no problem" in error(specs["table1"], out, _other_groups(specs))
    assert "options: rows: must be at least 1" in error(specs["table1"], out, lambda s: s["options"].update(rows=0))


def _other_groups(specs: dict) -> Callable[[dict], None]:
    path = _run(specs["fig4"])["points"][0]["groups"][0]
    other = Path(path).with_name("other.groups.parquet")
    frame = pd.read_parquet(path)
    write_parquet(other, frame.assign(problem_id="other-" + frame.problem_id))
    return lambda spec: spec["options"]["samples"][1].update(groups=str(other))


def test_other_problems_of_one_data_set_are_refused(specs: dict, tmp_path: Path) -> None:
    path = _run(specs["fig2"])["points"][-1]["groups"][0]
    frame = pd.read_parquet(path)
    write_parquet(tmp_path / "fewer.parquet", frame[frame.problem_id != "amc23-007"])
    groups = [str(tmp_path / "fewer.parquet")]
    message = error(specs["fig2"], tmp_path / "out", lambda s: _run(s)["points"][-1].update(groups=groups))
    assert "hold different problems of 'amc23' (one lacks 'amc23-007')" in message


def test_an_error_keeps_the_old_figure(specs: dict, tmp_path: Path) -> None:
    old = {path: path.read_bytes() for path in render(specs["fig2"], tmp_path / "fig2")}
    with pytest.raises(SrtError):
        draw(specs["fig2"], tmp_path, lambda spec: spec.update(datasets=["nothing"]))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_spec_needs_a_kind() -> None:
    with pytest.raises(SrtError, match="kind '' is unknown"):
        parse_spec({"figure": "fig2"})


def test_methods_differ_in_colour_line_and_marker() -> None:
    for values in zip(*((m.color, m.marker) for m in METHODS.values()), strict=True):
        assert len(set(values)) == len(METHODS)
    # Only srt and test_time both have solid lines, and no figure draws both.
    assert sorted(name for name, m in METHODS.items() if m.line == "-") == ["srt", "test_time"]
    dashes = [m.line for m in METHODS.values() if m.line != "-"]
    assert len(set(dashes)) == len(dashes)


def test_labels_of_one_method_differ_and_the_first_keeps_the_colour() -> None:
    drawn = looks([("Level 2", "srt"), ("GT", "ground_truth"), ("Level 3", "srt"), ("Level 2", "srt")])
    assert drawn["Level 2"] == look("srt") and drawn["GT"] == look("ground_truth")
    assert drawn["Level 3"].color != look("srt").color and drawn["Level 3"].marker != look("srt").marker


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of writer_name, which Snakemake uses too
def test_captions_render_as_the_report_renders_them(root: Path) -> None:
    """By Jinja2, then by docutils with warnings as errors, as `snakemake --report` does at the end of a run."""
    import jinja2
    from docutils import core

    captions = {path.stem: path.read_text(encoding="utf-8") for path in (root / "workflow" / "report").glob("*.rst")}
    assert {"workflow", "fig2", "fig3", "fig4", "fig6", "fig7", "fig8", "fig9", "table1", "v2_fig5"} <= set(captions)
    shared = read_yaml(root / "workflow" / "report" / "shared.yaml")
    everything = {"claims": True, "datasets": ["amc23", "dapo"]}
    for shown in (everything, {"claims": False, "datasets": ["sums"]}):
        config = {"verdicts": "2 claims: 1 supported.", "up_to_date": "Up to date.", "captions": shared, "shown": shown}
        for name, text in captions.items():
            if shown != everything and "snakemake.config.shown" not in text:
                continue
            template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
            text = template.render(snakemake=SimpleNamespace(config=config))
            body = core.publish_parts(text, writer_name="html", settings_overrides={"halt_level": 1, "report_level": 1})
            assert len(body["html_body"]) > 250, name
            if name in ("workflow", "audit"):
                assert ("AMC23" in text) == (shown == everything), name


def test_kinds_have_modules_that_say_their_options() -> None:
    for kind, what in KINDS.items():
        assert what
        text = (ROOT / "src" / "srt" / "figures" / f"{kind}.py").read_text(encoding="utf-8").partition("\nOptions\n")[2]
        for option in OPTIONS[kind].model_fields:
            assert f"\n    {option} " in f"\n{text}", f"{kind}: {option}"
