"""Hub data sets against a loopback server that answers as the hub does: the real clients send real requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srt.data import read_problems
from support import ROOT
from support.hub_server import ABSENT, NEW, OLD, REPOSITORIES, serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    with serve() as server:
        yield server


def _environment(endpoint: str, home: Path, offline: bool = False) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
    keep |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    keep |= {"SENTINEL": str(home.parent / "sentinel"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "01"[offline]}
    return keep


def _entry(**changes: object) -> dict[str, object]:
    entry = {"source": "hub", "repo": "lab/sums", "revision": NEW, "config_name": "main", "answer_format": "gsm8k"}
    return entry | changes


def _make(out: Path, environment: dict[str, str], *more: str, **changes: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts/make_data.py"), "--name", "sums", "--out", str(out)]
    command += ["--manifest", str(out.with_suffix(".json")), "--spec", json.dumps(_entry(**changes)), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def made(hub: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, HF home) after one download of the train split."""
    folder = tmp_path_factory.mktemp("hub")
    result = _make(folder / "sums.parquet", _environment(hub[0], folder / "home"))
    assert result.returncode == 0, result.stderr
    return folder, folder / "home"


def test_download_has_every_shard_in_order(hub: tuple[str, list[str]], made: tuple[Path, Path]) -> None:
    table = read_problems(made[0] / "sums.parquet")
    assert table["problem"].to_pylist() == [f"What is {i} + 7?" for i in range(25)]
    assert table["answer"].to_pylist() == [str(1007 + i) for i in range(25)]
    assert table["id"][0].as_py() == "sums-main-train-000000"
    manifest = json.loads((made[0] / "sums.json").read_text())
    assert manifest["rows"] == 25 and manifest["columns"] == {"problem": "question", "answer": "answer"}
    assert set(manifest["versions"]) == {"python", "datasets", "huggingface_hub", "pyarrow"}
    assert any(path.startswith(f"/api/datasets/lab/sums/tree/{NEW}") for path in hub[1])
    assert any(path.endswith(f"/resolve/{NEW}/main/train-00001-of-00002.parquet") for path in hub[1])
    assert not any("main/" in path and NEW not in path for path in hub[1]), "only the pinned commit is asked for"


def test_no_code_of_the_repository_runs(made: tuple[Path, Path]) -> None:
    assert list(made[1].rglob("sums.py")), "the script was downloaded"
    assert not (made[0] / "sentinel").exists()


def test_cache_serves_offline_with_the_same_bytes(hub: tuple[str, list[str]], made: tuple[Path, Path]) -> None:
    folder, home = made
    before = len(hub[1])
    result = _make(folder / "offline.parquet", _environment(hub[0], home, offline=True))
    assert result.returncode == 0, result.stderr
    assert (folder / "offline.parquet").read_bytes() == (folder / "sums.parquet").read_bytes()
    assert len(hub[1]) == before


def test_another_commit_is_another_table_even_offline(hub: tuple[str, list[str]], made: tuple[Path, Path]) -> None:
    folder, home = made
    refused = _make(folder / "old.parquet", _environment(hub[0], home, offline=True), revision=OLD)
    assert refused.returncode == 2 and "HF_HUB_OFFLINE" in refused.stderr and OLD in refused.stderr
    assert not (folder / "old.parquet").exists() and not (folder / "old.json").exists()
    result = _make(folder / "old.parquet", _environment(hub[0], folder / "home2"), revision=OLD, split="test")
    assert result.returncode == 0, result.stderr
    assert read_problems(folder / "old.parquet")["problem"].to_pylist() == [f"What is {i} + 1?" for i in range(25, 30)]


def test_mirror_made_by_the_hub_client(hub: tuple[str, list[str]], made: tuple[Path, Path], tmp_path: Path) -> None:
    mirror = tmp_path / "lab" / "sums" / NEW
    client = Path(sys.executable).with_name("hf")
    if not client.exists():
        pytest.skip("the command `hf` is not beside this Python")
    command = [str(client), "download", "lab/sums", "--repo-type", "dataset", "--revision", NEW]
    environment = _environment(hub[0], tmp_path / "home")
    fetched = subprocess.run(
        [*command, "--local-dir", str(mirror)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert fetched.returncode == 0, fetched.stderr
    empty = _environment("http://127.0.0.1:9", tmp_path / "empty", offline=True)
    result = _make(tmp_path / "m.parquet", empty, "--local-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "m.parquet").read_bytes() == (made[0] / "sums.parquet").read_bytes()


def test_broken_mirror_is_named(hub: tuple[str, list[str]], made: tuple[Path, Path], tmp_path: Path) -> None:
    mirror = tmp_path / "lab" / "sums" / NEW
    for name, data in REPOSITORIES["lab/sums"][NEW].items():
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(data[: len(data) // 2] if "train-00001" in name else data)
    result = _make(tmp_path / "m.parquet", _environment(hub[0], made[1]), "--local-dir", str(tmp_path))
    assert result.returncode == 2 and "cannot be read" in result.stderr and str(mirror) in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "m.parquet").exists()


def test_incomplete_cache_is_refused(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert _make(tmp_path / "a.parquet", _environment(hub[0], home)).returncode == 0
    (shard,) = home.rglob("train-00001-of-00002.parquet")
    shard.unlink()
    result = _make(tmp_path / "b.parquet", _environment(hub[0], home, offline=True))
    assert result.returncode == 2 and "does not have all of it" in result.stderr
    assert not (tmp_path / "b.parquet").exists()


ERRORS = """
import json, sys
from srt.config.datasets import parse_dataset
from srt.data import load
from srt.common.errors import SrtError
for entry in json.loads(sys.argv[1]):
    try:
        load(parse_dataset("sums", entry), "sums")
        print("no error")
    except SrtError as error:
        print(str(error).replace("\\n", "<newline>"))
"""


def test_wrong_entries_are_one_sentence_each(hub: tuple[str, list[str]], made: tuple[Path, Path]) -> None:
    cases: list[tuple[dict[str, object], list[str]]] = [
        (_entry(repo="lab/none"), ["no data set lab/none", "`repo`"]),
        (_entry(revision=ABSENT), [f"no commit {ABSENT}", "`revision`"]),
        (_entry(split="dev"), ["dev", "train", "test", "`split`"]),
        (_entry(config_name="extra"), ["extra", "main", "plain", "`config_name`"]),
        (_entry(config_name=None), ["main", "plain", "`config_name`"]),
        (_entry(expect_rows=26), ["25 rows", "26", "expect_rows"]),
        (_entry(columns={"answer": "label"}), ["'label'", "question, answer", "columns.answer"]),
        (_entry(config_name="plain"), ["has no '####'", "answer_format: plain"]),
    ]
    environment = _environment(hub[0], made[1]) | {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", ERRORS, json.dumps([entry for entry, _ in cases])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(cases), result.stderr
    for line, (_, expected) in zip(lines, cases, strict=True):
        assert all(part in line for part in expected) and "<newline>" not in line, (line, expected)
