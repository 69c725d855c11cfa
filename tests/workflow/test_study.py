"""The study of docs/study.md, run as it is written, with a tiny model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from srt.results import Results
from support import ROOT
from support.dag import snakemake

DOCUMENT = (ROOT / "docs/study.md").read_text(encoding="utf-8")
STUDY = re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[1]


@pytest.mark.slow
def test_the_study_runs_as_written(micro_run: Path, tmp_path: Path) -> None:
    assert len(STUDY.splitlines()) <= 35
    folder = tmp_path / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    shutil.copytree(folder / "results/micro/models/micro", folder / "models/mine")
    asked = "State the final answer to the following arithmetic problem: "
    sums = [f'"{asked}{a} + {b} =",{a + b}' for a in range(1, 7) for b in range(1, 6)]
    (folder / "questions.csv").write_text("\n".join(["problem,answer", *sums]) + "\n", encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    output = snakemake(folder, "--configfile", "study.yaml", "--cores", "2")
    assert "are in training set" not in output
    made = folder / "results/study"
    for name in re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE):
        assert (made / name).exists(), name
    results = Results(made)
    assert results.table("overlap")[["exact", "near"]].to_numpy().sum() >= 0
    assert results.table("claims")["verdict"].iloc[0] in ("supported", "not supported", "undecided")
    # the same file without a split: a warning before the first job, and no claim that rests on trained questions
    (folder / "study.yaml").write_text(STUDY.replace(", holdout_fraction: 0.3, part: heldout", ""), encoding="utf-8")
    planned = snakemake(folder, "--configfile", "study.yaml", "--cores", "2", "results/study/data/test.parquet")
    assert "warning: data: " in planned and "questions of test set 'test' are in training set 'learn'" in planned
