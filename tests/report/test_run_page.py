"""The page of a running workflow: what it says of stages, failures and runs, and how it looks in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from srt.config import Config, load_config, read_yaml
from srt.plan.eta import Progress, Stage
from srt.report.run_page import FAILURES, HEIGHT, RUNS, WIDTH, RunPage, curve
from support import ROOT
from support.chrome import Chrome

PROGRESS = Progress(12, 60, 1830.0, 300.0, (Stage("data", 5, 5), Stage("training", 7, 55)))


def step(number: int, agreement: float | None = 0.3, share: float = 0.2) -> str:
    row = {"step": number, "majority_ratio": agreement, "top_majority_share": share, "kl": 0.1, "response_length": 20.0}
    return json.dumps(row)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPage:
    """The page of the miniature, in which one run collapses and one has just begun."""
    monkeypatch.chdir(tmp_path)
    config: Config = load_config(read_yaml(ROOT / "config/mini.yaml") | {"results": "out"}, ROOT, "config/mini.yaml")
    (tmp_path / "out/logs").mkdir(parents=True)
    collapse = [step(n) for n in range(1, 9)] + [step(n, 0.9, 1.0) for n in range(9, 30)]
    for name, lines in (("srt_mix-s1", collapse), ("gt_mix-s2", [step(1), '{"step": 2, "majo'])):
        folder = tmp_path / "out/progress" / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("\n".join(lines))
    return RunPage(config, tmp_path / "out/logs/workflow.log")


def test_it_says_how_far_the_workflow_is_and_what_failed(page: RunPage) -> None:
    page.failures = [f"FAILED: <{number}>" for number in range(FAILURES + 2)]
    page.write(PROGRESS)
    text = page.path.read_text(encoding="utf-8")
    assert page.path.name == "workflow.html" and "12 of 60 jobs done after 5 min, about 30 min left" in text
    assert '<progress max="55" value="7">' in text and 'http-equiv="refresh"' in text
    assert f"Failed: {FAILURES} of {FAILURES + 2}, the last ones" in text
    assert "&lt;6&gt;" in text and "&lt;1&gt;" not in text and "<6>" not in text
    for state, sentence in (("done", "finished"), ("failed", "ended with failed jobs"), ("stopped", "stopped")):
        page.write(PROGRESS, state)
        text = page.path.read_text(encoding="utf-8")
        assert f"</strong>: {sentence}</p>" in text and "refresh" not in text


def test_a_run_has_its_curves_and_its_alarm(page: RunPage) -> None:
    page.write(PROGRESS)
    text = page.path.read_text(encoding="utf-8")
    assert "the collapse alarm rang at step 11 (one answer)" in text, "the third step in a row"
    assert text.count("<svg") == 6 and text.count('class="rings"') == 3
    assert re.search(r"gt_mix-s2</strong>.*\n?.*step 1 of", text), "a line that is being written does not count"
    assert "agreement: 0.9 <" in text and "(0.3 to 0.9)" in text


def test_many_runs_show_those_that_took_a_step_last(page: RunPage) -> None:
    names = [name for run in page.config.runs for name in page.config.instances(run)][: RUNS + 5]
    for name in names:
        folder = Path("out/progress") / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text(step(1))
    page.write(PROGRESS)
    text = page.path.read_text(encoding="utf-8")
    assert text.count("<section>") == RUNS and re.search(r"\d+ more runs, written earlier", text)


def test_a_curve_is_interrupted_where_it_has_no_value() -> None:
    rows = [{"step": n, "kl": value} for n, value in enumerate([0.0, 1.0, None, 3.0, float("nan"), 2.0, 4.0])]
    found = curve(rows, "kl", "KL", None, rings=3)
    assert found and (found["low"], found["high"], found["last"]) == ("0", "4", "4")
    assert [piece["alone"] for piece in found["pieces"]] == [False, True, False]
    places = [tuple(map(float, place.split(","))) for piece in found["pieces"] for place in piece["points"].split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places) and places == sorted(places)
    assert places[0][1] > places[-1][1], "larger values are higher in the picture"
    assert found["rings"] == found["pieces"][1]["x"]
    half = curve([{"step": n, "majority_ratio": 0.5} for n in (1, 2)], "majority_ratio", "agreement", 1.0, None)
    assert half and half["pieces"][0]["points"] == f"4.0,{HEIGHT / 2} {WIDTH - 4.0},{HEIGHT / 2}"
    assert curve(rows, "reward", "reward", None, None) is None


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: RunPage, width: int) -> None:
    page.failures = ["FAILED: Train srt_mix-s1/step-20; the end of x.log:\n  | " + "a long line " * 30]
    page.write(PROGRESS)
    with Chrome(width, 900) as browser:
        browser.open(page.path.as_uri())
        browser.wait("document.readyState == 'complete' && document.querySelectorAll('svg').length == 6")
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js("document.querySelector('h1').getBoundingClientRect().top") >= 0
        assert browser.js("Math.min(...[...document.querySelectorAll('svg')].map(each => each.clientWidth))") > 200
        assert browser.errors == [] and {url.partition(":")[0] for url in browser.requests} == {"file"}
