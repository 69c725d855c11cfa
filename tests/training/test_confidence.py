"""Rewards by the policy's own confidence: RENT, Intuitor, and mixtures with votes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from srt.answers import Grader
from srt.packing.logprobs import LogitScale, head_logprobs
from srt.rewards.group_rewards import training_rewards
from srt.training.batches import Batch
from srt.training.objectives import PolicyObjective
from srt.training.update import Statistics
from support.hand_made_rollouts import GROUPS, make_trainer, naive_of_preset, near, updated
from support.plain_update import ALONE, hyperparameters


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


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"entropy_reward": 1.0}, [0.5, 0.2, -0.7]),  # RENT: rewards -.3, -.5, -1.1
        ({"certainty_reward": 1.0}, [-0.6, 0.3, 0.3]),  # Intuitor: rewards 2.0, 2.6, 2.6
        ({"entropy_reward": 0.5, "certainty_reward": 0.1}, [1.14, -0.42, -0.72]),  # with votes 1, 0, 0 and a KL
    ],
)
def test_golden_advantages(weights, expected):
    """Leave-one-out over three responses: A = 3/2 (R - mean R)."""
    mixture = len(weights) == 2
    objective = PolicyObjective(hyperparameters(kl_coefficient=0.2 if mixture else 0, **weights), ALONE)
    one = np.zeros(1, np.int32)
    votes = np.array([1.0, 0.0, 0.0]) if mixture else np.zeros(3)
    batch = Batch([[1]] * 3, [one] * 3, [0] * 3, votes, np.ones(3, dtype=bool))
    found = Statistics(3)
    found.entropy_mean[:] = torch.tensor([0.3, 0.5, 1.1])
    found.certainty_mean[:] = torch.tensor([2.0, 2.6, 2.6])
    found.kl_sum[:] = torch.tensor([1.0, 1.0, 0.5])
    assert objective.advantages(batch, [0, 1, 2], found).tolist() == pytest.approx(expected, abs=1e-6)


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
