"""Rewards by the policy's own confidence: RENT, Intuitor, and mixtures with votes."""

from __future__ import annotations

import math

import pytest
import torch

from srt.answers import Grader
from srt.packing.logprobs import LogitScale, head_logprobs
from srt.training.rewards import training_rewards
from support.hand_made_rollouts import GROUPS, make_trainer, naive_of_preset, near, updated


@pytest.mark.parametrize(
    ("preset", "reward", "weights"),
    [
        ("clean", "confidence", {"entropy_reward": 1.0}),  # RENT
        ("authors", "confidence", {"certainty_reward": 1.0}),  # Intuitor
        ("clean", "majority", {"entropy_reward": 0.2, "certainty_reward": 0.1, "truncated": "mask"}),
    ],
)
def test_the_gradient_is_that_of_the_formulas(tmp_path, tiny_base, sums, preset, reward, weights):
    trainer = make_trainer(tmp_path, tiny_base, sums, preset=preset, reward=reward, micro_batch_sequences=6, **weights)
    expected = naive_of_preset(trainer, None, preset)
    actual, result = updated(trainer)
    near(actual, expected)
    if weights.keys() == {"entropy_reward"}:
        assert result["confidence_reward"] == pytest.approx(-result["entropy"], rel=1e-9)


def test_golden_self_certainty():
    """Two words: log p = (-log 4, -log 4/3), so KL(U || p) = (log 4 + log 4/3) / 2 - log 2 = .143841; uniform: 0."""
    head = torch.nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    hidden, found = torch.tensor([[1.0], [0.0]], dtype=torch.float64), []
    head_logprobs(head, hidden, torch.tensor([0, 1]), 1.0, found)
    torch.testing.assert_close(torch.cat(found), torch.tensor([0.143841, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("logits", [LogitScale(), LogitScale(0.25), LogitScale(2.0, 3.0)])
def test_self_certainty_is_the_divergence_from_the_uniform_distribution(logits, monkeypatch):
    monkeypatch.setattr("srt.packing.logprobs.chunk_of", lambda vocabulary, device: 3)
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(5, 11).double(), torch.randn(8, 5, dtype=torch.float64)
    found: list[torch.Tensor] = []
    values = head_logprobs(head, hidden, torch.arange(8), 0.7, found, logits)
    z = head(hidden)
    z = z * logits.scale if logits.cap is None else logits.cap * torch.tanh(z * logits.scale / logits.cap)
    p = (z / 0.7).softmax(-1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(torch.full_like(p, 1 / 11)), torch.distributions.Categorical(p)
    )
    torch.testing.assert_close(torch.cat(found), expected)
    for one, other in zip(values, head_logprobs(head, hidden, torch.arange(8), 0.7, logits=logits), strict=True):
        assert torch.equal(one, other)


def test_confidence_judges_no_answer():
    grader, tasks = Grader(), ["math"] * len(GROUPS)
    given = training_rewards("confidence", grader, GROUPS, None, tasks)
    assert not given.rewards.any() and given.labelled.all() and not given.unanimous.any()
    assert given.labels == [vote.majority for vote in grader.vote(GROUPS, tasks=tasks)]


def test_a_step_logs_the_whole_reward(tmp_path, tiny_base, sums):
    trainer = make_trainer(tmp_path, tiny_base, sums, reward="confidence", entropy_reward=1.0)
    row = trainer.step(0)
    assert row["reward"] == row["confidence_reward"] == pytest.approx(-row["entropy"])
    assert math.isnan(row["reward_accuracy"]) and not math.isnan(row["label_accuracy"])
