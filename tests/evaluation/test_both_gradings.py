"""Start and peak under both gradings, on made-up responses of which some are right without a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srt.answers import Grader
from srt.artefacts.gradings import resolve_gradings
from srt.artefacts.paths import Paths
from srt.common.errors import SrtError
from srt.common.io import read_parquet, write_parquet
from srt.config import load_config, read_yaml
from srt.evaluation.both_gradings import both_gradings
from srt.evaluation.scoring import read_references, score_file
from srt.metrics.intervals import crossed
from srt.metrics.peaks import peak_cells, widened
from support import ROOT

PROBLEMS, N, STEPS = 8, 4, [2, 4, 6]
CHECKPOINTS = [["base/tiny", *(f"r-s{seed}/step-{step}" for step in STEPS)] for seed in (1, 2)]
# per checkpoint: how many of the 4 responses to a problem are right in a box, and right without one
RIGHT = {"base/tiny": (1, 2), **{f"r-s{s}/step-{t}": k for s in (1, 2) for t, k in zip(STEPS, [(2, 1), (3, 0), (1, 0)],
                                                                                      strict=True)}}  # fmt: skip


def responses(checkpoint: str, problem: int) -> list[str]:
    boxed, plain = RIGHT[checkpoint]
    boxed -= problem % 2  # odd problems are harder
    wrong = N - boxed - plain
    return [f"\\boxed{{{problem}}}"] * boxed + [f"The final answer is {problem}."] * plain + ["\\boxed{99}"] * wrong


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    paths = Paths(str(tmp_path))
    table = pd.DataFrame({"id": [f"p{i}" for i in range(PROBLEMS)], "answer": [str(i) for i in range(PROBLEMS)]})
    write_parquet(paths.problems("t"), table.assign(problem="?", task="math"), {"dataset": "t"})
    with Grader("clean") as clean:
        for checkpoint in RIGHT:
            rows = [
                {"dataset": "t", "problem_id": f"p{i}", "sample": np.int32(k), "response": text, "token_ids": [1],
                 "finish_reason": "stop"}
                for i in range(PROBLEMS) for k, text in enumerate(responses(checkpoint, i))
            ]  # fmt: skip
            write_parquet(paths.samples(checkpoint, "tests"), pd.DataFrame(rows), {})
            scored = [paths.scores(checkpoint, "tests"), paths.groups(checkpoint, "tests")]
            score_file(paths.samples(checkpoint, "tests"), [paths.problems("t")], *scored, clean)
    run = {"run": "r", "label": "R", "steps": STEPS, "checkpoints": CHECKPOINTS, "suites": {"t": "tests"}}
    return {"results": str(tmp_path), "preset": "clean", "extractor": "boxed", "runs": [run]}


def table_of(spec: dict[str, Any]) -> pd.DataFrame:
    with Grader("authors") as grader:
        return both_gradings(spec, read_references([Paths(spec["results"]).problems("t")]), grader)


def rates(spec: dict[str, Any], checkpoint: str, preset: str) -> np.ndarray:
    """Pass rates of all responses of a checkpoint, graded as a whole file."""
    paths = Paths(spec["results"])
    made = [str(Path(spec["results"], preset, f"{kind}.parquet")) for kind in ("scores", "groups")]
    with Grader(preset) as grader:
        score_file(paths.samples(checkpoint, "tests"), [paths.problems("t")], *made, grader)
    return read_parquet(made[1])["pass_rate"].to_numpy()


def test_numbers_are_those_of_grading_everything_again(spec: dict[str, Any]) -> None:
    found = table_of(spec).set_index(["grading", "moment"])
    assert found.index.tolist() == [(p, m) for p in ("clean", "authors") for m in ("start", "peak", "peak over start")]
    assert set(found["steps"]) == {"0", "4"} and set(found["n"]) == {N} and set(found["problems"]) == {PROBLEMS}
    clean = np.array([[rates(spec, each, "clean") for each in seed] for seed in CHECKPOINTS])  # [S, T, P]
    for preset in ("clean", "authors"):
        start = rates(spec, "base/tiny", preset)
        one = crossed({"t": start[None]}, share=True)
        assert (found.loc[preset, "start"][["value", "lo", "hi"]]).tolist() == pytest.approx(
            [one.value, *one.interval()]
        )
        peak = np.array([rates(spec, seed[2], preset) for seed in CHECKPOINTS])
        best = widened(crossed({"t": peak}, share=True))
        row = found.loc[preset, "peak"]
        assert row[["value", "lo", "hi"]].tolist() == pytest.approx([best.value, *best.interval()])
        ratio = found.loc[preset, "peak over start"]
        assert (
            ratio["value"] == pytest.approx(peak.mean() / start.mean()) and ratio["lo"] <= ratio["value"] <= ratio["hi"]
        )
    assert peak_cells({"t": clean[:, 1:]})["t"] == pytest.approx(clean[:, 2])  # the step is the one that the peak has
    # the base model forgets the box: with one demanded, the peak looks many times as good
    assert found.loc[("clean", "start"), "value"] == 1 / 8 and found.loc[("authors", "start"), "value"] == 5 / 8
    assert found.loc[("clean", "peak over start"), "value"] == pytest.approx(5)
    assert found.loc[("authors", "peak over start"), "value"] == pytest.approx(1)


def test_only_what_is_needed_is_graded_again(spec: dict[str, Any]) -> None:
    whole, paths = table_of(spec), Paths(spec["results"])
    for seed in CHECKPOINTS:
        for checkpoint in (seed[1], seed[3]):
            Path(paths.samples(checkpoint, "tests")).unlink()
    assert table_of(spec).equals(whole)
    with Grader("authors") as grader, pytest.raises(SrtError, match="problem 'p0' of 't' is in no table of problems"):
        both_gradings(spec, {("t", "p1"): read_references([paths.problems("t")])["t", "p1"]}, grader)


def test_no_ratio_without_a_right_answer(spec: dict[str, Any]) -> None:
    paths = Paths(spec["results"])
    groups = read_parquet(paths.groups("base/tiny", "tests")).to_pandas()
    write_parquet(paths.groups("base/tiny", "tests"), groups.assign(pass_rate=0.0))
    found = table_of(spec).set_index(["grading", "moment"])
    assert np.isnan(found.loc[("clean", "peak over start"), "value"])
    assert found.loc[("clean", "start"), "value"] == 0 and found.loc[("authors", "peak over start"), "value"] > 0


def test_the_full_configuration_reads_samples_that_exist_anyway() -> None:
    from srt.plan.jobs import build

    config = load_config(read_yaml(ROOT / "config/config.yaml"), ROOT, "config/config.yaml")
    spec, inputs = resolve_gradings(config)
    assert [run["run"] for run in spec["runs"]] == config.gradings.runs  # type: ignore[union-attr]
    assert all(run["suites"] == dict.fromkeys(("aime24", "aime25", "amc23"), "core") for run in spec["runs"])
    dag = build(config)
    job = dag.jobs["gradings gradings"]
    assert set(job.inputs) == {file for kind in inputs.values() for file in kind} and job.key in dag.leaves
    without = build(config.model_copy(update={"gradings": None}))
    assert set(dag.jobs) - set(without.jobs) == {job.key}
