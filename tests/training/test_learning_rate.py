"""Warm-up and schedules of the learning rate: golden numbers, whole runs, segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from srt.common.errors import Interrupted
from srt.common.io import read_parquet
from srt.config.train import Train
from srt.training.learning_rate import rate_of_step
from srt.training.training_set import METRICS, SCHEDULED
from support.specs import train_spec
from support.training import train, weights

LINEAR = {"schedule": "linear", "warmup_steps": 1, "schedule_steps": 4}


def rates(steps: int, **keys: Any) -> list[float]:
    rate = rate_of_step(Train(learning_rate=0.5, **keys).model_dump())
    assert rate is not None
    return [rate(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("keys", "shares"),
    [
        ({"warmup_steps": 4}, [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ({"schedule": "linear", "schedule_steps": 4}, [1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": "linear", "warmup_steps": 2, "schedule_steps": 6}, [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        # (1 + cos(pi k / 4)) / 2
        ({"schedule": "cosine", "warmup_steps": 2, "schedule_steps": 6}, [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_golden_numbers(keys, shares):
    assert rates(len(shares), **keys) == pytest.approx([0.5 * share for share in shares], abs=1e-6)


def test_a_constant_rate_is_never_set():
    assert rate_of_step(Train().model_dump()) is None and rate_of_step({"learning_rate": 1e-6}) is None


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.sampled_from(["linear", "cosine"]), st.integers(0, 5), st.integers(6, 20))
def test_it_rises_then_falls_and_never_leaves_its_bounds(schedule, warmup, end):
    found = np.array(rates(end + 1, schedule=schedule, warmup_steps=warmup, schedule_steps=end))
    assert (np.diff(found[: warmup + 1]) > 0).all() and (np.diff(found[warmup:]) < 0).all()
    assert found.max() == found[warmup] == 0.5 and found[-1] == pytest.approx(0, abs=1e-12) and (found >= -1e-12).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base, sums) -> Path:
    return train(tmp_path_factory.mktemp("whole"), tiny_base, sums, train_spec(**LINEAR), 4)


def frame(step: Path) -> Any:
    return read_parquet(step / "metrics.parquet").to_pandas()


def test_the_rate_of_each_step_is_logged_and_used(whole, tiny_base, sums, tmp_path):
    table = frame(whole)
    assert table.columns.tolist() == [*METRICS, *SCHEDULED]
    assert table["learning_rate"].tolist() == pytest.approx([0, 1e-3, 2e-3 / 3, 1e-3 / 3])
    first = train(tmp_path, tiny_base, sums, train_spec(**LINEAR), 1)
    base, after = (load_file(folder / "model.safetensors") for folder in (tiny_base, first / "model"))
    assert all(torch.equal(base[name], after[name]) for name in base)  # the first step of a warm-up has rate 0
    assert weights(first) != weights(whole)


def test_segments_and_interruptions_are_one_long_run(whole, tmp_path, tiny_base, sums):
    spec = train_spec(**LINEAR)
    for _ in range(4):
        try:
            train(tmp_path, tiny_base, sums, spec, 2, minutes=1e-6)
        except Interrupted:
            continue
        break
    chain = train(tmp_path, tiny_base, sums, spec, 2, 4)
    assert weights(chain) == weights(whole)
    rows = [frame(tmp_path / f"step-{n}") for n in (2, 4)]
    assert np.array_equal(np.concatenate([r.to_numpy() for r in rows]), frame(whole).to_numpy(), equal_nan=True)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_rate_that_stays_is_the_run_without_the_keys(tmp_path, tiny_base, sums, monkeypatch, stage):
    spec = train_spec(zero_stage=stage)
    plain = train(tmp_path / "plain", tiny_base, sums, spec, 1)
    monkeypatch.setattr("srt.training.base_trainer.rate_of_step", lambda train: lambda step: train["learning_rate"])
    same = train(tmp_path / "set", tiny_base, sums, spec, 1)
    monkeypatch.setattr("srt.training.base_trainer.rate_of_step", lambda train: lambda step: 2 * train["learning_rate"])
    other = train(tmp_path / "double", tiny_base, sums, spec, 1)
    assert weights(same) == weights(plain) != weights(other)
    assert frame(same)[list(METRICS)].equals(frame(plain))
