"""scripts/make_data.py as a person calls it: bytes, manifest, exit codes, and no files after a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from srt.common import io
from srt.data import read_problems
from support import ROOT

SCRIPT = str(ROOT / "scripts/make_data.py")
SUMS = {"source": "reasoning_gym", "name": "chain_sum", "size": 60, "split": "test", "level": "easy"}


def command(folder: Path, spec: Any, *more: str) -> list[str]:
    text = spec if isinstance(spec, str) else json.dumps(spec)
    out = ["--out", str(folder / "out/x.parquet"), "--manifest", str(folder / "out/x.json")]
    return [sys.executable, SCRIPT, "--name", "x", "--spec", text, *out, *more]


def run(folder: Path, spec: Any, *more: str, **variables: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command(folder, spec, *more), env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for number in "12":
        folder = tmp_path / number
        result = run(folder, SUMS, PYTHONHASHSEED=number)
        assert result.returncode == 0, result.stderr
        written.append([(folder / "out" / name).read_bytes() for name in ("x.parquet", "x.json")])
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["x.json", "x.parquet"]
    assert written[0] == written[1]
    table = read_problems(tmp_path / "1/out/x.parquet")
    manifest = json.loads(written[0][1])
    assert manifest["fingerprint"] == io.parquet_metadata(tmp_path / "1/out/x.parquet")["fingerprint"]
    assert manifest["spec"] == SUMS and manifest["name"] == "x"
    assert manifest["rows"] == table.num_rows == 60
    assert manifest["by"]["level"] == {"easy": 60} and manifest["by"]["subject"] == {"arithmetic": 60}
    assert manifest["counts"]["drawn"] > manifest["counts"]["in_the_other_split"] > 60
    assert "reasoning_gym" in manifest["versions"]


def test_local_file_relative_to_the_folder(tmp_path: Path) -> None:
    rows = [{"id": i, "problem": f"q{i}", "answer": 7, "level": "Level 1"} for i in range(3)]
    rows.append({"id": 3, "problem": "q3", "answer": "", "level": "Level 1"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"source": "local", "path": "a.jsonl", "on_empty_answer": "drop"}
    result = run(tmp_path, spec, "--local-dir", str(tmp_path))
    assert result.returncode == 0 and "dropped 1 rows: empty answer (3)" in result.stderr
    manifest = json.loads((tmp_path / "out/x.json").read_text())
    assert manifest["input_sha256"] == io.sha256_file(tmp_path / "a.jsonl")
    assert manifest["dropped"] == {"empty answer": {"ids": ["3"], "rows": 1}}
    assert str(tmp_path) not in (tmp_path / "out/x.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{", "--spec is not JSON"),
        (SUMS | {"sise": 3}, "unknown key 'sise' (did you mean 'size'?)"),
        (SUMS | {"name": "chain_sums"}, "did you mean 'chain_sum'?"),
        ({"source": "local", "path": "none.jsonl"}, "none.jsonl does not exist"),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(tmp_path: Path, spec: Any, expected: str) -> None:
    result = run(tmp_path, spec)
    assert result.returncode == 2 and expected in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_failure_keeps_the_old_files(tmp_path: Path) -> None:
    assert run(tmp_path, SUMS).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(tmp_path, SUMS | {"params": {"max_terms": 0}}).returncode == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_no_permission_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("this user (root?) may write everywhere")
    result = run(tmp_path, SUMS)
    assert result.returncode == 2 and "no permission" in result.stderr and "Traceback" not in result.stderr


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    slow = SUMS | {"name": "knights_knaves", "params": {"n_people": 9}, "size": 5000}
    process = subprocess.Popen(command(tmp_path, slow), stderr=subprocess.PIPE, text=True)
    time.sleep(4)  # far into the generation, which takes minutes
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0 and "examples:" in result.stdout and "--local-dir" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"pyarrow", "pandas", "pydantic", "datasets", "reasoning_gym"}


def test_library_import_is_lazy() -> None:
    code = "import sys, srt.data, srt.config.datasets; print(sorted({'reasoning_gym', 'datasets', 'huggingface_hub', 'torch'} & set(sys.modules)))"  # noqa: E501
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=400)
    assert result.stdout.strip() == "[]", result.stderr
