"""The provenance table: what it lists, and what must not be in it."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from srt.common import io
from srt.common.errors import SrtError
from srt.report.provenance import COLUMNS, code, provenance, resolved_hash


@pytest.fixture
def spec(tmp_path: Path) -> dict:
    """A model, a data set and a run, as the workflow leaves them."""
    io.write_json(
        tmp_path / "m" / "srt.json",
        {"fingerprint": "f" * 64, "source": {"source": "hub", "repo": "a/b", "revision": "c" * 40}},
    )
    entry = {"source": "local", "path": "x.parquet", "take": 5}
    io.write_json(
        tmp_path / "d.json",
        {"spec": entry, "rows": 5, "fingerprint": "d" * 64, "versions": {"pyarrow": "1"}, "input_sha256": "e" * 64},
    )
    frame = pd.DataFrame({"step": np.arange(3)})
    run = {"seed": 7, "model": "m", "data": "d", "reward": "majority", "init": "other-s7/step-4"}
    io.write_parquet(tmp_path / "metrics.parquet", frame, {"spec": run})
    about = {"checkpoint": "9" * 64, "data": {"d": "d" * 64}, "spec": {"n": 4, "seed": 3}}
    io.write_parquet(tmp_path / "last.parquet", frame, about)
    files = {"metrics": str(tmp_path / "metrics.parquet"), "last": str(tmp_path / "last.parquet")}
    return {
        "config": "0" * 64,
        "models": {"m": str(tmp_path / "m")},
        "data": {"d": str(tmp_path / "d.json")},
        "runs": {"r-s7": files},
    }


def test_every_part_is_listed(spec, root) -> None:
    table = provenance(spec, root)
    assert list(table.columns) == list(COLUMNS) and not table.duplicated(["section", "name", "item"]).any()
    value = table.set_index(["section", "name", "item"])["value"]
    assert value["models", "m", "revision"] == "c" * 40 and value["models", "m", "fingerprint"] == "f" * 64
    assert value["data", "d", "source"] == "local: x.parquet" and value["data", "d", "sha256 of the file"] == "e" * 64
    assert value["runs", "r-s7", "seed"] == "7" and value["runs", "r-s7", "init"] == "other-s7/step-4"
    assert value["runs", "r-s7", "last checkpoint"] == "9" * 64 and value["runs", "r-s7", "evaluated on d"] == "d" * 64
    assert value["software", "numpy", "version"] == np.__version__
    assert len(value["code", "sources", "sha256"]) == 64 and ("code", "constraints.txt", "sha256") in value.index


def test_the_same_twice_and_nothing_of_the_machine(spec, root) -> None:
    first, second = provenance(spec, root), provenance(spec, root)
    assert first.equals(second)
    text = first.drop(columns="name").to_csv()
    assert socket.gethostname() not in text and str(root) not in text and f"/{getpass.getuser()}" not in text


def test_code_outside_git_is_told(tmp_path) -> None:
    rows = {(name, item): value for _, name, item, value in code(tmp_path)}
    assert rows["repository", "commit"] == "unknown: not a git checkout"


def test_a_changed_source_changes_its_hash(tmp_path) -> None:
    (tmp_path / "scripts").mkdir()
    marks = []
    for text in ("a = 1\n", "a = 2\n"):
        (tmp_path / "scripts" / "x.py").write_text(text, encoding="utf-8")
        marks.append(next(value for _, name, _, value in code(tmp_path) if name == "sources"))
    assert marks[0] != marks[1]


def test_where_results_lie_does_not_change_the_configuration(spec) -> None:
    assert resolved_hash({"a": 1, "results": "x", "local_dir": "y"}) == resolved_hash({"a": 1, "results": "z"})
    assert resolved_hash({"a": 1}) != resolved_hash({"a": 2})


def test_what_changes_no_result_does_not_change_the_configuration() -> None:
    def mark(scoring: dict, run: dict, **top: object) -> str:
        return resolved_hash({"scoring": {"preset": "clean", **scoring}, "runs": {"r": {"steps": 4, **run}}, **top})

    limits = {"timeout_s": 9.0, "memory_mb": 900, "workers": 3}
    assert mark({}, {}) == mark(limits, {"gpus": 2, "job": {"minutes": 5}}, save_every=7, plan={"cpu_seconds": 3})
    train = {"clip": 0.2}
    tracked = {**train, "trackers": ["wandb"]}
    assert mark({}, {"train": train}, train_defaults=train) == mark({}, {"train": tracked}, train_defaults=tracked)
    assert mark({}, {}) != mark({"preset": "authors"}, {}) and mark({}, {}) != mark({}, {"steps": 8})


def test_the_commit_of_a_data_set_from_the_hub_is_listed(spec, root) -> None:
    io.write_json(spec["data"]["d"], io.read_json(spec["data"]["d"]) | {"commit": "a" * 40})
    table = provenance(spec, root)
    assert table[(table.section == "data") & (table.item == "commit")].value.tolist() == ["a" * 40]


def test_a_foreign_file_is_named(spec, root) -> None:
    io.write_json(spec["data"]["d"], {"rows": 3})
    with pytest.raises(SrtError, match="lacks 'spec': it is not a data set's manifest"):
        provenance(spec, root)
