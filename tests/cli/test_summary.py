"""`srt summary --all-settings`: evaluations on disk at any settings, of checkpoints as they are now."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from srt.cli.summary import all_settings
from srt.common.io import write_json, write_parquet
from support.config_files import change, load, write

RESULTS = Path("results/test")


def evaluated(checkpoint: str, name: str, fingerprint: str, temperature: float, rate: float) -> None:
    frame = pd.DataFrame(
        {"dataset": "sums_test", "problem_id": ["a", "b"], "n": 8, "parsed": 8, "majority_correct": True,
         "consistency_all": 1.0, "pass_rate": rate, "mean_length": 5.0}
    )  # fmt: skip
    metadata = {"checkpoint": fingerprint, "spec": {"temperature": temperature}}
    write_parquet(RESULTS / f"eval/{checkpoint}/{name}.groups.parquet", frame, metadata)


def test_all_settings_of_the_present_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    change(tmp_path, "runs.yaml", "curriculum: {by: pass_rate}", "")
    models = {"base/tiny": RESULTS / "models/tiny", "gt-s1/step-12": RESULTS / "runs/gt-s1/step-12/model"}
    for checkpoint, model in models.items():
        write_json(model / "config.json", {})
        write_json(model / "srt.json", {"fingerprint": f"{checkpoint} now"})
        evaluated(checkpoint, "tests", f"{checkpoint} now", 1.0, 0.5)
    evaluated("base/tiny", "tests@00000000", "base/tiny now", 0.6, 0.25)
    evaluated("gt-s1/step-12", "tests@00000000", "gt-s1/step-12 now", 0.6, 0.75)
    evaluated("gt-s1/step-12", "tests@11111111", "gt-s1/step-12 before", 0.3, 0.75)  # trained again since
    rows = all_settings(load(tmp_path)).query("run == 'gt-s1'")
    found = {(row.step, row.suite, row.temperature, row.gain) for row in rows.itertuples()}
    assert found == {
        (0, "tests", 1.0, 0.0), (12, "tests", 1.0, 0.0), (0, "tests@00000000", 0.6, 0.0),
        (12, "tests@00000000", 0.6, 0.5),
    }  # fmt: skip
