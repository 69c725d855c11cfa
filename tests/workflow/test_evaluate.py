"""Models without a training run: what a user writes, what a DAG of two tiny models makes, what a third one adds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from srt.artefacts.evaluations import evaluations
from srt.config import load_config, read_yaml
from srt.plan.jobs import build
from srt.results import Results
from support import ROOT
from support.config_files import MAIN, load, write
from support.dag import jobs, snakemake

DOCUMENT = (ROOT / "docs/evaluate.md").read_text(encoding="utf-8")
MODEL = "{source: local, path: results/micro/%s, context: 96, gpus_sample: 0}"
MINE = f"""\
results: results/mine
models:
  first: {MODEL % "models/micro"}
  second: {MODEL % "runs/gt-s1/step-4/model"}
datasets:
  sums: {{source: local, path: sums.csv}}
sampling: {{n: 4, max_prompt_tokens: 60, max_new_tokens: 16, engine: transformers, dtype: float32}}
scoring: {{workers: 1}}
evaluate:
  suites: [sums]
  seeds: [0, 7]
"""


def write_sums(folder: Path, text: str = MINE) -> None:
    """A configuration and a data set of four sums."""
    rows = "".join(f"State the final answer to the following arithmetic problem: {a} + 3 =,{a + 3}\n" for a in range(4))
    (folder / "sums.csv").write_text(f"problem,answer\n{rows}", encoding="utf-8")
    (folder / "mine.yaml").write_text(text, encoding="utf-8")


def test_the_document_s_configuration_is_complete_and_short(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    assert len(text.splitlines()) <= 15
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    config = load_config(read_yaml(tmp_path / "my.yaml"), tmp_path, "my.yaml")
    counted: dict[str, int] = {}
    for job in build(config).jobs.values():
        counted[job.rule] = counted.get(job.rule, 0) + 1
    assert counted == {
        "base_model": 2, "data": 2, "sample": 4, "score": 4, "evaluate": 1, "results_table": 1, "provenance": 1,
        "costs": 1,
    }  # fmt: skip


def test_seeds_beside_runs_reuse_the_samples_of_the_configured_seed(tmp_path: Path) -> None:
    main = write(tmp_path)
    plain = evaluations(load(tmp_path))
    text = main.read_text(encoding="utf-8")
    main.write_text(f"{text}evaluate: {{models: [tiny], suites: [tests], seeds: [0, 5]}}\n", encoding="utf-8")
    config = load_config(read_yaml(main, MAIN), tmp_path, MAIN, [main])
    rows = evaluations(config)
    assert rows[: len(plain)] == plain
    files = [file for row in rows[len(plain) :] for file in row["groups"]]
    assert files == [f"results/test/eval/base/tiny/{name}.groups.parquet" for name in ("tests", "tests-s5")]
    assert config.sampling_settings("tiny", "tests-s5").seed == 5 and config.members("tests-s5@01234567")
    greedy = config.model_copy(update={"sampling": config.sampling.model_copy(update={"temperature": 0.0})})
    assert greedy.evaluation_seeds("tiny", "tests") == {0: "tests"}, "greedy samples do not depend on the seed"


@pytest.mark.slow
def test_two_models_make_a_table_and_a_figure_and_a_third_adds_only_its_own_jobs(micro_run, tmp_path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    write_sums(folder)
    output = snakemake(folder, "--configfile", "mine.yaml", "--cores", "2")
    assert "**sums**: 4 problems, 2 seeds of 4 responses" in output
    made = folder / "results/mine"
    for name in ("figures/evaluate.pdf", "figures/evaluate.png", "tables/evaluate.md"):
        assert (made / name).stat().st_size, name
    results = Results(made)
    assert set(results.table("evaluate")["model"]) == {"first", "second"}
    told = re.search(r"^\| `evaluate` \|.*\| (.*) \(\[", (ROOT / "docs/results.md").read_text("utf-8"), re.MULTILINE)[1]
    assert list(results.table("evaluate")) == told.split(", ")
    rows = results.table("results")
    assert [*zip(rows["run"], rows["seed"], strict=True)] == [
        ("base/first", 0), ("base/first", 7), ("base/second", 0), ("base/second", 7),
    ]  # fmt: skip
    responses = [results.responses("base/first", name)["response"].tolist() for name in ("sums", "sums-s7")]
    assert responses[0] != responses[1]

    third = MINE.replace("datasets:", f"  third: {MODEL % 'runs/offline_easy-s1/step-2/model'}\ndatasets:")
    write_sums(folder, third)
    planned = jobs(snakemake(folder, "--configfile", "mine.yaml", "-n"))
    assert (planned["base_model"], planned["sample"], planned["score"], planned["evaluate"]) == (1, 2, 2, 1)
    assert "data" not in planned
    write_sums(folder, third.replace("runs/offline_easy-s1", "runs/no_such-s1"))
    output = snakemake(folder, "--configfile", "mine.yaml", "--cores", "1", code=1)
    assert "models: third: results/micro/runs/no_such-s1/step-2/model/config.json does not exist" in output
    assert "Traceback" not in output
