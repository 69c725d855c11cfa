"""Soft overlong punishment: DAPO's Eq. 13, and what a step does with it."""

from __future__ import annotations

import numpy as np
import pytest

from srt.rewards.group_rewards import overlong_punishment
from srt.rollout import LENGTH, STOP, Rollout
from srt.training.batches import Batch
from support.hand_made_rollouts import make_trainer


def rollout(tokens: int, limit: int = 10) -> Rollout:
    return Rollout(np.zeros(tokens, np.int32), np.zeros(tokens, np.float32), LENGTH if tokens == limit else STOP)


def test_golden_numbers():
    """A limit of 10 tokens, the last 4 of which are punished: (6 - T) / 4."""
    groups = [[rollout(t) for t in row] for row in ([1, 5, 6, 7], [8, 9, 10, 6])]
    assert overlong_punishment(groups, 10, 4).tolist() == [[0, 0, 0, -0.25], [-0.5, -0.75, -1, 0]]
    assert overlong_punishment([[rollout(1), rollout(10)]], 10, 10).tolist() == [[-0.1, -1]]
    assert overlong_punishment([], 10, 4).size == 0


@pytest.mark.trl
def test_it_is_that_of_trl():
    from trl.rewards import get_soft_overlong_punishment

    lengths = range(1, 25)
    for cache in (1, 7, 24):
        ours = overlong_punishment([[rollout(t) for t in lengths]], 24, cache)[0]
        assert ours.tolist() == get_soft_overlong_punishment(24, cache)(completion_ids=[[0] * t for t in lengths])


@pytest.mark.parametrize("truncated", ["count", "mask"])
def test_a_step_adds_it_to_the_rewards(tmp_path, tiny_base, sums, monkeypatch, truncated):
    keys = {"max_new_tokens": 12, "truncated": truncated}
    plain = make_trainer(tmp_path / "plain", tiny_base, sums, **keys)
    trainer = make_trainer(tmp_path / "own", tiny_base, sums, **keys, overlong_cache=6)
    seen: list[Batch] = []
    for t in (plain, trainer):
        monkeypatch.setattr(t.update, "run", lambda b: seen.append(b) or {"loss": 0.0})
    before, row = plain.step(0), trainer.step(0)
    without, batch = seen
    tokens = np.array([len(r) for r in batch.responses])
    expected = np.clip((6 - tokens) / 6, -1, 0)
    assert len(set(expected.tolist())) > 2  # none, some and the whole punishment
    assert row["overlong_punishment"] == pytest.approx(expected.mean())
    assert row["reward"] == pytest.approx(before["reward"] + expected.mean())
    if truncated == "mask":
        expected = np.where(batch.masked, 0.0, expected)
    assert batch.rewards.tolist() == pytest.approx((without.rewards + expected).tolist())
    same = {k: v for k, v in row.items() if k not in ("reward", "overlong_punishment")}
    assert same == {k: v for k, v in before.items() if k != "reward"}  # accuracies and votes know nothing of it


def test_where_no_response_is_long_the_step_is_that_without(tmp_path, tiny_base, sums):
    rows = []
    for keys in ({}, {"overlong_cache": 1}):
        trainer = make_trainer(tmp_path / str(len(keys)), tiny_base, sums, max_new_tokens=80, **keys)
        rows.append(trainer.step(0))
    assert rows[1].pop("overlong_punishment") == 0 and rows[0]["truncated_rate"] == 0
    assert rows[0] == rows[1]
