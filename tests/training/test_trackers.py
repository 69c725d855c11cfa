"""Trackers of curves: W&B offline, the names of its curves, and that none of them can stop training."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from srt.training import trackers
from srt.training.trackers import TRL_NAMES, Trackers, run_id
from srt.training.tracking import Tracker
from training.test_tracking import row, scalars, steps, timing

SPEC = {"run": "srt-s1", "seed": 1, "train": {"learning_rate": 1e-4}}


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Iterator[Path]:
    """A home without keys of W&B, and no settings of it; returns the folder of a run's logs."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path / "results/progress/srt-s1"
    sys.modules["wandb"].teardown()  # it keeps the environment of its first use


def take(folder: Path, step: int, last: int, *names: str, spec: dict = SPEC) -> None:
    tracker = Tracker(folder, [], step, True, names, spec)
    for n in range(step + 1, last + 1):
        tracker.write({**row(n), "truncated_rate": 0.25, "majority_ratio": 0.5}, timing(n))
    tracker.close()


def wandb_rows(file: Path) -> list[dict[str, float]]:
    """The logged steps of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, rows = DataStore(), []
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            rows.append({key: value for key, value in values.items() if not key.startswith("_")})
    return rows


@pytest.mark.wandb
def test_segments_and_resumes_are_one_run_of_wandb_offline(offline, capsys):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    take(offline, 0, 2, "tensorboard", "wandb")
    take(offline, 2, 3, "tensorboard", "wandb")
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    name = run_id(offline, SPEC)
    files = sorted((offline / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{name}.wandb"] * 2 and name.startswith("srt-s1-")
    rows = [logged for file in files for logged in wandb_rows(file)]
    assert [logged["train/global_step"] for logged in rows] == [1, 2, 3]
    assert rows[2] == {
        "train/global_step": 3, "train/reward": pytest.approx(0.3), "train/kl": 1.0, "metrics/majority_ratio": 0.5,
        "train/completions/mean_length": 23.0, "train/completions/clipped_ratio": 0.25, "train/step_time": 2.0,
        **{f"timing/{key}": value for key, value in timing(3).items() if key not in ("step", "seconds")},
    }  # fmt: skip
    assert len(scalars(offline, "metrics/reward")) == 3, "TensorBoard keeps the names of metrics.jsonl"
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in told] == ["W&B works offline (there is no API key)"] * 2


@pytest.mark.wandb
def test_a_server_that_refuses_costs_one_line(offline, monkeypatch, capsys):
    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))  # else wandb may see a reset, and try again
            self.send_response(401)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        take(offline, 0, 1, "wandb")
        server.shutdown()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B")]
    assert "W&B works offline (its server gives no run: " in line and "wandb sync --append" in line
    assert len(list((offline / "wandb").glob("offline-run-*"))) == 1 and not (offline / "tensorboard").exists()


def test_a_run_s_id_is_that_of_its_name_folder_and_spec(tmp_path):
    name = run_id(tmp_path / "a", SPEC)
    assert name == run_id(tmp_path / "b/../a", dict(reversed(SPEC.items())))
    assert name not in {run_id(tmp_path / "b", SPEC), run_id(tmp_path / "a", {**SPEC, "seed": 2})}


@pytest.mark.parametrize("fault", ["opening", "writing", "closing"])
def test_a_tracker_that_fails_costs_one_line(tmp_path, monkeypatch, capsys, fault):
    class Faulty:
        def __init__(self, *args: object) -> None:
            self.fail("opening")

        def write(self, *args: object) -> None:
            self.fail("writing")

        def close(self) -> None:
            self.fail("closing")

        def fail(self, moment: str) -> None:
            if moment == fault:
                raise RuntimeError("broken\npipe")

    monkeypatch.setattr(trackers, "Wandb", Faulty)
    take(tmp_path, 0, 3, "wandb", "tensorboard", "wandb")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracker wandb is off: it failed with RuntimeError: broken pipe")
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3] and len(scalars(tmp_path, "metrics/kl")) == 3


def test_without_wandb_one_sentence_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    take(tmp_path, 0, 2, "wandb")
    (line,) = capsys.readouterr().err.splitlines()
    assert "'wandb' is not installed, which `make setup-tracking` installs" in line
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


def test_no_trackers_leave_the_lines_alone(tmp_path):
    take(tmp_path, 0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "timing.jsonl"]
    assert Trackers([], tmp_path, 0, {}).running == {}


@pytest.mark.trl
def test_the_names_are_those_of_trl():
    """TRL's trainers log all of them but three, which transformers' Trainer logs itself."""
    (trl,) = find_spec("trl").submodule_search_locations
    for trainer in ("rloo", "grpo"):
        text = Path(trl, f"trainer/{trainer}_trainer.py").read_text(encoding="utf-8")
        logged = {name for name in TRL_NAMES if f'"{name}"' in text}
        expected = set(TRL_NAMES) - {"loss", "grad_norm", "learning_rate"}
        if trainer == "rloo":  # which has no metrics of sampling
            expected -= {name for name in TRL_NAMES if name.startswith("sampling/")}
        assert expected <= logged, trainer
    (transformers,) = find_spec("transformers").submodule_search_locations
    text = Path(transformers, "trainer.py").read_text(encoding="utf-8")
    assert all(f'logs["{name}"]' in text for name in ("loss", "grad_norm", "learning_rate"))


def test_the_table_of_names_is_in_the_document(root):
    text = (root / "docs/monitors.md").read_text(encoding="utf-8")
    pairs = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `train/")]
    assert {name.strip(" `").removeprefix("train/"): column.strip(" `") for name, column in pairs} == TRL_NAMES
