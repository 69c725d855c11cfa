"""Dynamic sampling (DAPO): groups whose rewards are all equal are dropped, and other prompts are drawn for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srt.answers import Grader
from srt.common.errors import Interrupted
from srt.common.io import read_json, read_parquet, write_parquet
from srt.rewards.group_rewards import GroupRewards
from srt.training.training_set import DYNAMIC, METRICS, REFILL
from support.hand_made_rollouts import GROUPS, TRUTH, hand_made, make_trainer
from support.specs import train_spec
from support.training import train, weights

RULE = {"dynamic_sampling": True, "rounds": 3}


def spec_of(rule: dict[str, Any] | None = RULE, **changes: Any) -> dict[str, Any]:
    """Few responses at a low temperature, so that some groups agree."""
    few = {"rollouts_per_prompt": 4, "temperature": 0.15, **changes}
    return train_spec(**few) | ({"refill": rule} if rule else {})


def frame(step: Path) -> Any:
    return read_parquet(step / "metrics.parquet").to_pandas()


@pytest.mark.parametrize(
    ("reward", "trained", "equal"),
    [
        ("majority", 4, [False, False, True, True]),  # rewards 1100, 1001, no answer, 1111
        ("majority", 2, [True, False, True, True]),  # of the first two, that are trained on, both have 7
        ("ground_truth", 4, [False, False, True, True]),  # 1100, 0110, all wrong, all wrong
        ("soft_majority", 4, [False, True, True, True]),  # the tie: .5 each
    ],
)
def test_by_hand(tmp_path, tiny_base, sums, reward, trained, equal):
    trainer = make_trainer(tmp_path, tiny_base, sums, reward=reward, rollouts_trained=trained)
    if reward == "ground_truth":
        trainer.data.labels.update(zip(trainer.data.ids[:4], TRUTH, strict=True))
    trainer.spec["refill"] = RULE
    _, flat = hand_made(trainer, GROUPS)
    judged = trainer.judge(range(4), [flat[i : i + 4] for i in range(0, 16, 4)])
    assert [flag for _, flag in judged] == equal
    tasks = [trainer.data.tasks[i] for i in range(4)]
    assert [vote.majority for vote, _ in judged] == [vote.majority for vote in Grader().vote(GROUPS, tasks=tasks)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base, sums) -> Path:
    return train(tmp_path_factory.mktemp("whole"), tiny_base, sums, spec_of(), 4)


def test_the_metrics_say_what_was_dropped(whole):
    table = frame(whole)
    assert table.columns.tolist() == [*METRICS, *REFILL, *DYNAMIC]
    assert table["prompts_drawn"].between(4, 12).all() and table["prompts_kept"].between(1, 4).all()
    assert (table["drawn_keep_rate"] + table["drawn_unanimous_rate"] == 1).all()
    assert (table["drawn_unanimous_rate"] > 0).any() and table["prompts_drawn"].max() > 4
    assert (table["unanimous_rate"] == 0).all()  # in the batch
    assert read_json(whole / "state" / "progress.json")["place"] == table["data_place"].iloc[-1]


def test_segments_and_interruptions_are_one_long_run(whole, tmp_path, tiny_base, sums):
    for _ in range(4):
        try:
            train(tmp_path, tiny_base, sums, spec_of(), 3, minutes=1e-6)
        except Interrupted:
            continue
        break
    chain = train(tmp_path, tiny_base, sums, spec_of(), 3, 4)
    assert weights(chain) == weights(whole)
    rows = [frame(tmp_path / f"step-{n}") for n in (3, 4)]
    assert np.array_equal(np.concatenate([r.to_numpy() for r in rows]), frame(whole).to_numpy(), equal_nan=True)


def test_votes_alone_decide_where_the_reward_is_the_vote(whole, tmp_path, tiny_base, sums):
    write_parquet(tmp_path / "blind.parquet", read_parquet(sums).to_pandas().drop(columns="answer"))
    blind = train(tmp_path, tiny_base, tmp_path / "blind.parquet", spec_of(), 4)
    assert weights(blind) == weights(whole)


def test_where_no_group_is_dropped_it_is_the_run_without(tmp_path, tiny_base, sums, monkeypatch):
    monkeypatch.setattr(GroupRewards, "unanimous", property(lambda self: np.zeros(len(self.votes), dtype=bool)))
    plain = train(tmp_path / "plain", tiny_base, sums, spec_of(None), 2)
    other = train(tmp_path / "other", tiny_base, sums, spec_of(), 2)
    assert weights(other) == weights(plain)
    table = frame(other)
    assert table[list(METRICS)].equals(frame(plain)) and (table["drawn_keep_rate"] == 1).all()


def test_where_every_group_is_dropped_the_step_is_that_without(tmp_path, tiny_base, sums):
    """At a high temperature all answers are wrong: after the last round the first prompts drawn are the batch."""
    changes = {"reward": "ground_truth", "temperature": 50.0}
    plain = train(tmp_path / "plain", tiny_base, sums, spec_of(None, **changes), 1)
    other = train(tmp_path / "other", tiny_base, sums, spec_of({"dynamic_sampling": True, "rounds": 1}, **changes), 1)
    table = frame(other)
    assert table["prompts_kept"].tolist() == [0] and table["drawn_unanimous_rate"].tolist() == [1]
    assert weights(other) == weights(plain) and table[list(METRICS)].equals(frame(plain))


def test_both_rules_together(tmp_path, tiny_base, sums):
    """A group is kept if it agrees enough and not wholly."""
    table = frame(train(tmp_path, tiny_base, sums, spec_of(RULE | {"majority": 0.25}), 2))
    assert (table["drawn_keep_rate"] + table["drawn_unanimous_rate"] <= 1).all()
    assert (table["unanimous_rate"] == 0).all() and (table["majority_ratio"] >= 0.25).all()
