"""Results folders as frames: docs/results.md names their columns, its example and the notebook run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.results import Results
from srt.results.folder import TABLES
from support import ROOT

DOCUMENT = (ROOT / "docs/results.md").read_text(encoding="utf-8")
NOTEBOOK = json.loads((ROOT / "docs/results.ipynb").read_text(encoding="utf-8"))
SMOKE = 'Results("results/smoke")'


@pytest.fixture(scope="module")
def micro(micro_run) -> Results:
    return Results(micro_run / "results/micro")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^#+ ", DOCUMENT.partition(f" {title}\n")[2], flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """The last cell of each row of a table as names, by its first cell."""
    found = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        first, *_, last = line.split(" | ")
        found[first.strip("`").partition("(")[0]] = re.sub(r" \(\[.*", "", last).split(", ")
    return found


def listed(title: str) -> list[str]:
    """The first cells of a table with a row per column, or per few of them."""
    cells = re.findall(r"^\| ([^|]*) \|", section(title), re.MULTILINE)
    return [name for cell in cells if cell != "column" for name in cell.split(", ")]


def test_frames_have_the_documented_columns(micro):
    frames, at = rows(section("Frames")), ("base/micro", "tests")
    assert set(frames) >= {"problems", "evaluations", "samples", "scores", "groups", "responses", "metrics", "table"}
    assert list(micro.problems("sums")) == frames["problems"]
    assert list(micro.scores(*at)) == frames["scores"] and list(micro.groups(*at)) == frames["groups"]
    for name, frame in (
        ("`evaluations`", micro.evaluations()),
        ("`samples`", micro.samples(*at)),
        ("`responses`", micro.responses(*at)),
    ):
        assert list(frame) == listed(name), name
    told = (ROOT / "docs/monitors.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in told for column in micro.metrics("gt-s1"))
    assert {"value", "lo", "hi"} <= set(micro.figure("fig2"))


def test_tables_have_the_documented_columns(micro):
    from srt.claims.verdict_tables import COLUMNS
    from srt.metrics.early_stopping import early_stopping

    told = rows(section("Tables"))
    del told["name"]
    assert list(told) == list(TABLES)
    there = [name for name in TABLES if micro.table_file(name).is_file()]
    assert len(there) == 7
    for name in there:
        assert list(micro.table(name)) == told[name], name
    assert told["claims"] == COLUMNS  # the micro DAG has no claims, no validation set, no second grading
    assert list(early_stopping({"results": "", "runs": []})) == told["early_stopping"]


def test_every_table_is_made_by_the_target_that_an_error_names(root):
    rules = "".join(path.read_text(encoding="utf-8") for path in (root / "rules").glob("*.smk"))
    for target in TABLES.values():
        assert f"\nrule {target}:" in rules


def test_responses_join_question_response_and_verdict(micro):
    frame = micro.responses("gt-s1/step-4", "tests")
    groups = micro.groups("gt-s1/step-4", "tests").set_index("problem_id")
    questions = micro.problems("sums_test").set_index("id")
    assert len(frame) == groups["n"].sum() == 96
    some = frame.iloc[37]
    assert (some["problem"], some["reference"]) == tuple(questions.loc[some["problem_id"], ["problem", "answer"]])
    rate = frame.groupby("problem_id")["correct"].mean()
    pd.testing.assert_series_equal(rate, groups["pass_rate"].sort_index(), check_names=False)


def test_evaluations_and_metrics_of_all_runs(micro):
    frame = micro.evaluations()
    assert frame["checkpoint"].tolist()[:3] == ["base/micro", "base/micro", "gt-s1/step-2"]
    assert frame[frame["run"] == "gt-s1"]["step"].tolist() == [2, 4]
    every = micro.metrics()
    assert list(every)[:2] == ["run", "step"]
    assert every["run"].value_counts().to_dict() == {"gt-s1": 4, "offline_easy-s1": 2}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda r: r.samples("base/micr", "tests"), r"base/micr/tests.samples.parquet .*'base/micro'.*all_eval"),
        (lambda r: r.groups("base/micro", "test"), r"test.groups.parquet .*did you mean 'tests'.*snakemake all_eval"),
        (lambda r: r.problems("sum"), r"data/sum.parquet does not exist .*'sums'.*snakemake all_data"),
        (lambda r: r.metrics("gt-s2"), r"runs/gt-s2/metrics.parquet .*'gt-s1'.*snakemake all_train"),
        (lambda r: r.table("claims"), r"claims/claims.csv does not exist: make it with snakemake claims"),
        (lambda r: r.table("result"), r"there is no table 'result' \(did you mean 'results'\?\)"),
        (lambda r: r.figure("fig3"), r"figures/fig3.csv does not exist: make it with snakemake all_figures"),
    ],
)
def test_a_missing_file_is_named_with_what_makes_it(micro, call, told):
    with pytest.raises(SrtError, match=told):
        call(micro)


def test_a_folder_that_is_not_there_and_one_without_results(tmp_path):
    with pytest.raises(SrtError, match="nowhere is not a folder: name one that snakemake has filled"):
        Results(tmp_path / "nowhere")
    empty = Results(tmp_path)
    assert empty.evaluations().empty and empty.runs() == empty.datasets() == []
    with pytest.raises(SrtError, match="no finished run: make them with snakemake all_train"):
        empty.metrics()


def test_a_label_that_pandas_takes_for_missing_stays_text(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/results.csv").write_text("label,gain\nNA,\nnone,1\n", encoding="utf-8")
    frame = Results(tmp_path).table("results")
    assert frame["label"].tolist() == ["NA", "none"] and frame["gain"].isna().tolist() == [True, False]


def run_on(micro_run: Path, monkeypatch: pytest.MonkeyPatch, *sources: str) -> dict[str, object]:
    """Execute code in one namespace, as a notebook's kernel does, on the micro DAG's results."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    monkeypatch.chdir(micro_run)
    names: dict[str, object] = {}
    for place, source in enumerate(sources):
        exec(compile(source.replace("results/smoke", "results/micro"), f"cell {place}", "exec"), names)
    return names


def test_the_example_of_the_document_runs(micro_run, monkeypatch):
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert SMOKE in source
    assert isinstance(run_on(micro_run, monkeypatch, source)["results"], Results)


def test_the_notebook_runs_and_holds_no_outputs(micro_run, monkeypatch):
    cells = NOTEBOOK["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert (NOTEBOOK["nbformat"], len({cell["id"] for cell in cells})) == (4, len(cells))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    sources = ["".join(cell["source"]) for cell in code]
    assert SMOKE in sources[0]
    import matplotlib.pyplot as plt

    names = run_on(micro_run, monkeypatch, *sources)
    drawn = [plt.figure(number).axes[0].lines for number in plt.get_fignums()]
    plt.close("all")
    assert [len(lines) for lines in drawn] == [2, 2], "a line for each run"
    assert len(names["last"]) == 2 and len(names["responses"]) == 96


def test_links_of_the_notebook_lead_to_files(root):
    text = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"])
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all((root / "docs" / link).is_file() for link in links)
