"""Responses cut at the length limit: counted, masked from the loss, or barred from the vote."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.answers import Grader
from srt.rewards.group_rewards import training_rewards, without_cut
from srt.rollout import LENGTH, STOP, Rollout
from srt.training.batches import Batch
from support.hand_made_rollouts import TRUTH, make_trainer, naive_of_preset, near, updated

GRADER = Grader()


@pytest.mark.parametrize(
    ("preset", "reward", "truncated"),
    [
        ("clean", "majority", "mask"), ("authors", "majority", "mask"), ("authors", "ground_truth", "mask"),
        ("clean", "majority", "no_vote"), ("authors", "majority", "no_vote"),
    ],
)  # fmt: skip
def test_cut_responses_are_masked_or_do_not_vote(tmp_path, tiny_base, sums, preset, reward, truncated):
    """Against the formulas: masked rows are in no sum over tokens, but their rewards are in the others' baselines."""
    trainer = make_trainer(
        tmp_path, tiny_base, sums, preset=preset, reward=reward, truncated=truncated, micro_batch_sequences=6
    )
    labels, authors = TRUTH if reward == "ground_truth" else None, preset == "authors"
    expected = naive_of_preset(trainer, labels, preset)
    actual, result = updated(trainer, labels=labels)
    near(actual, expected)
    dropped = 0 if authors else 1  # of the four groups: the one without a label
    masked = (4 - dropped) if truncated == "mask" else 0
    assert result["kept_rate"] == (16 - 4 * dropped - masked) / 16


@pytest.mark.parametrize("truncated", ["count", "mask", "no_vote"])
def test_a_step_masks_bars_or_counts_what_it_has_cut(tmp_path, tiny_base, sums, monkeypatch, truncated):
    """A whole step with real rollouts, of which the length limit cuts some; the refill asks the same votes."""
    trainer = make_trainer(tmp_path, tiny_base, sums, truncated=truncated, max_new_tokens=10, rollouts_trained=3)
    seen: list[Batch] = []
    monkeypatch.setattr(trainer.update, "run", lambda b: seen.append(b) or {"loss": 0.0})
    drawn: list[list[Rollout]] = []
    sample = trainer.batches.sample
    monkeypatch.setattr(trainer.batches, "sample", lambda *args: drawn.extend(sample(*args)) or list(drawn))
    row = trainer.step(0)
    cut = np.array([[len(r.token_ids) == 10 and r.token_ids[-1] not in trainer.end_tokens for r in g] for g in drawn])
    assert 0 < cut.sum() < cut.size and row["truncated_rate"] == cut.mean()
    (batch,) = seen
    assert (batch.masked is None) == (truncated != "mask")
    if truncated == "mask":
        assert batch.masked.tolist() == cut[:, :3].ravel().tolist()
    texts = trainer._texts(drawn)
    barred = [
        ["" if c and truncated == "no_vote" else text for text, c in zip(row, cuts, strict=True)]
        for row, cuts in zip(texts, cut, strict=True)
    ]
    votes = trainer.grader.vote(barred, tasks=["chain_sum"] * 4)
    trainer.spec["refill"] = {"majority": 0.5}
    judged = trainer.judge(trainer.order.batch(0), drawn)
    assert [vote.majority for vote, _ in judged] == [vote.majority for vote in votes]
    expected = [[float(c == 0) for c in v.classes[:3]] for v in votes]
    assert batch.rewards.tolist() == np.ravel(expected).tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.booleans()), min_size=4, max_size=4), max_size=3
    )
)
def test_what_was_cut_has_no_vote_and_no_reward(groups):
    """Against counting by hand; ties may go to any of the answers that have most votes."""
    texts = [["no answer" if a is None else f"so \\boxed{{{a}}}" for a, _ in row] for row in groups]
    empty = np.zeros(0, np.float32)
    rollouts = [[Rollout(empty, empty, LENGTH if cut else STOP) for _, cut in row] for row in groups]
    given_ = {
        kind: training_rewards(kind, GRADER, without_cut(texts, rollouts), None, ["math"] * len(groups))
        for kind in ("majority", "soft_majority")
    }
    for g, row in enumerate(groups):
        votes = Counter(a for a, cut in row if a is not None and not cut)
        for kind, rewards in given_.items():
            label = rewards.labels[g]
            assert votes[label] == max(votes.values()) if votes else label is None
            share = {a: votes[a] / votes.total() for a in votes}
            whole = [None if cut else a for a, cut in row]
            expected = [float(a == label is not None) if kind == "majority" else share.get(a, 0.0) for a in whole]
            assert rewards.rewards[g].tolist() == pytest.approx(expected)
            assert rewards.votes[g].consistency_all == max(votes.values(), default=0) / 4  # over all four responses
