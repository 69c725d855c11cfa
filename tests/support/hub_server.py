"""A server on loopback that answers as the Hugging Face hub does: the two endpoints that a download needs."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

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


def parquet(rows: list[tuple[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"question": [q for q, _ in rows], "answer": [a for _, a in rows]}), sink)
    return sink.getvalue()


def files(offset: int) -> dict[str, bytes]:
    """A repository at one commit: two shards of a train split, a test split, a second configuration, a script."""
    rows = [(f"What is {i} + {offset}?", f"{i} + {offset} = <<>>\n#### {1000 + i + offset:,}") for i in range(30)]
    return {
        "README.md": CARD.encode(),
        "main/train-00000-of-00002.parquet": parquet(rows[:12]),
        "main/train-00001-of-00002.parquet": parquet(rows[12:25]),
        "main/test-00000-of-00001.parquet": parquet(rows[25:]),
        "plain/train.parquet": parquet([(f"Add {i} and {offset}", str(i + offset)) for i in range(5)]),
        "sums.py": b"import os, pathlib\npathlib.Path(os.environ['SENTINEL']).write_text('run')\n",
    }


REPOSITORIES = {"lab/sums": {OLD: files(1), NEW: files(7)}}


class Hub(BaseHTTPRequestHandler):
    """The two endpoints that a download needs: the tree of a commit, and a file at a commit."""

    requests: list[str]

    def _find(self) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(self.path)
        parts = urlsplit(self.path).path.strip("/").split("/")
        api = parts[0] == "api"
        if len(parts) < 5:  # the client also asks for paths that belong to no data set
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


@contextmanager
def serve(handler: type[Hub] = Hub) -> Iterator[tuple[str, list[str]]]:
    """The address of a running server, and the paths that it was asked for so far."""
    requests: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"requests": requests}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
