"""Hub data sets against a server on loopback that answers as the hub does: the real clients make the real requests."""

from __future__ import annotations

import hashlib
import io as stdio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srt.data import read_problems

ROOT = Path(__file__).resolve().parent.parent.parent
OLD, NEW, ABSENT = "a" * 40, "b" * 40, "c" * 40
CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*.parquet
  - split: test
    path: main/test-*.parquet
- config_name: plain
  data_files:
  - split: train
    path: plain/train.parquet
---
# Sums
"""


def _parquet(rows: list[tuple[str, str]]) -> bytes:
    sink = stdio.BytesIO()
    pq.write_table(pa.table({"question": [q for q, _ in rows], "answer": [a for _, a in rows]}), sink)
    return sink.getvalue()


def _files(offset: int) -> dict[str, bytes]:
    """A repository at one commit: two shards of a train split, a test split, a second configuration, a script."""
    rows = [(f"What is {i} + {offset}?", f"{i} + {offset} = <<>>\n#### {1000 + i + offset:,}") for i in range(30)]
    return {
        "README.md": CARD.encode(),
        "main/train-00000-of-00002.parquet": _parquet(rows[:12]),
        "main/train-00001-of-00002.parquet": _parquet(rows[12:25]),
        "main/test-00000-of-00001.parquet": _parquet(rows[25:]),
        "plain/train.parquet": _parquet([(f"Add {i} and {offset}", str(i + offset)) for i in range(5)]),
        "sums.py": b"import os, pathlib\npathlib.Path(os.environ['SENTINEL']).write_text('run')\n",
    }


REPOSITORIES = {"lab/sums": {OLD: _files(1), NEW: _files(7)}}


class _Hub(BaseHTTPRequestHandler):
    """The two endpoints that a download needs: the tree of a commit, and a file at a commit."""

    requests: list[str]

    def _find(self) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(self.path)
        parts = urlsplit(self.path).path.strip("/").split("/")
        api = parts[0] == "api"
        if len(parts) < 5:  # the client also asks for things that are no data set's
            return 404, {}, b"{}"
        parts = parts[2:] if api else parts[1:]
        repo, verb, revision, path = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if repo not in REPOSITORIES:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if revision not in REPOSITORIES[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = REPOSITORIES[repo][revision]
        if api and verb == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if api:  # repo_info, which `hf download` asks for
            info = {"id": repo, "sha": revision, "siblings": [{"rfilename": name} for name in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        return 200, {"X-Repo-Commit": revision, "ETag": etag}, files[path]

    def _answer(self, body: bool) -> None:
        status, headers, data = self._find()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet; `requests` is the log."""


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []
    handler = type("Hub", (_Hub,), {"requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()
    thread.join()


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
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


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
        [*command, "--local-dir", str(mirror)], env=environment, capture_output=True, text=True, timeout=120
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
    assert result.returncode == 2 and "does not have it whole" in result.stderr
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
        timeout=120,
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(cases), result.stderr
    for line, (_, expected) in zip(lines, cases, strict=True):
        assert all(part in line for part in expected) and "<newline>" not in line, (line, expected)
