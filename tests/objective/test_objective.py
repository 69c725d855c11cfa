"""The objective against golden numbers, brute force and invariances."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.objective.advantages import advantages
from srt.objective.kl import kl_per_token, masked_sum
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights
from support.golden_batch import BETA, GROUP, LENGTHS, MASK, OLD, REF, REWARD, near, padded


def golden_advantages(estimator: str = "k3", reward: torch.Tensor = REWARD, beta: float = BETA) -> torch.Tensor:
    kl = masked_sum(kl_per_token(padded(OLD), padded(REF), estimator), MASK)
    return advantages(reward - beta * kl, GROUP)


def test_kl_sums_are_the_golden_ones():
    near(masked_sum(kl_per_token(padded(OLD), padded(REF), "k1"), MASK), [0.05, -0.15, -0.50, 0.20])
    near(masked_sum(kl_per_token(padded(OLD), padded(REF), "k3"), MASK), [0.006109, 0.060567, 0.188855, 0.018731])


def test_advantages_are_the_golden_ones():
    near(golden_advantages("k3"), [0.674994, -0.665600, -0.682705, 0.673311])
    near(golden_advantages("k1"), [0.646667, -0.660000, -0.613333, 0.626667])


def test_unanimous_group_keeps_its_kl_signal():
    ones = torch.ones(4, dtype=torch.float64)
    near(golden_advantages(reward=ones), [0.008328, 0.001066, -0.016039, 0.006645])
    small = golden_advantages(reward=ones, beta=0.001)
    near(small, [8.3e-5, 1.1e-5, -1.6e-4, 6.6e-5])
    assert (small != 0).all()


def test_kl_outside_the_baseline_gives_the_golden_numbers_of_openrlhf():
    """OpenRLHF's advantage: leave-one-out of the task reward, minus the KL of the remaining tokens at each token."""
    kl = kl_per_token(padded(OLD), padded(REF)).nan_to_num() * MASK
    to_come = kl.flip(-1).cumsum(-1).flip(-1)
    found = advantages(REWARD, GROUP)[:, None] - BETA * to_come
    expected = [
        [0.666056, 0.666540, 0.666667],
        [-0.672723, -0.667737],
        [-0.685552, -0.685552, -0.683679, -0.681539],
        [0.664794, 0.666667],
    ]
    for row, length, values in zip(found, LENGTHS.tolist(), expected, strict=True):
        near(row[:length], values)


@pytest.mark.parametrize(
    ("estimator", "aggregation", "expected"),
    [
        ("k3", "token_mean", [-0.061363, 0.060509, 0.062064, -0.061210]),
        ("k3", "token_mean_micro", [-0.067499, 0.066560, 0.056892, -0.056109]),
        ("k3", "sequence_mean", [-0.056250, 0.083200, 0.042669, -0.084164]),
        ("k3", "sequence_sum", [-0.1687485, 0.1664000, 0.1706763, -0.1683278]),
        ("k1", "sequence_sum", [-0.161667, 0.165000, 0.153333, -0.156667]),
    ],
)
def test_token_gradients_are_the_golden_ones(estimator, aggregation, expected):
    logprobs = torch.nan_to_num(padded(OLD)).requires_grad_()
    weights = sequence_weights(LENGTHS, aggregation, micro_batch=2)
    policy_loss(logprobs, logprobs.detach(), golden_advantages(estimator), weights, MASK).backward()
    for i, value in enumerate(expected):
        near(logprobs.grad[i, : LENGTHS[i]], [value] * int(LENGTHS[i]))
        assert (logprobs.grad[i, LENGTHS[i] :] == 0).all()


def test_loss_value_is_the_golden_one():
    logprobs = torch.nan_to_num(padded(OLD))
    loss = policy_loss(logprobs, logprobs, golden_advantages(), sequence_weights(LENGTHS), MASK)
    near(loss, 0.062765)


def test_trl_has_a_sequence_ratio_and_a_loss_of_zero():
    """TRL's loss is -mean_i min(r_i A_i, clip(r_i) A_i): exactly 0 on-policy, yet its gradient is the golden one."""
    logprobs = torch.nan_to_num(padded(OLD)).requires_grad_()
    weights, advantage = sequence_weights(LENGTHS, "sequence_sum"), golden_advantages("k1")
    loss = policy_loss(logprobs, logprobs.detach(), advantage, weights, MASK, LossOptions(clip=0.2, ratio="sequence"))
    assert abs(float(loss.detach())) < 1e-15
    loss.backward()
    for i, value in enumerate([-0.161667, 0.165000, 0.153333, -0.156667]):
        near(logprobs.grad[i, : LENGTHS[i]], [value] * int(LENGTHS[i]))
        assert (logprobs.grad[i, LENGTHS[i] :] == 0).all()


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 32), min_size=1, max_size=5),
    st.integers(0, 2**31 - 1),
    st.floats(-5, 5),
)
def test_rloo_equals_brute_force_on_ragged_groups(sizes, seed, shift):
    generator = torch.Generator().manual_seed(seed)
    group = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    rewards = torch.randn(len(group), generator=generator, dtype=torch.float64)
    order = torch.randperm(len(group), generator=generator)
    group, rewards = group[order], rewards[order]
    expected = torch.zeros_like(rewards)
    for i in range(len(group)):
        others = [rewards[j] for j in range(len(group)) if j != i and group[j] == group[i]]
        expected[i] = rewards[i] - torch.stack(others).mean() if others else 0.0
    torch.testing.assert_close(advantages(rewards, group), expected)
    torch.testing.assert_close(advantages(rewards + shift, group), expected)
    for name in torch.unique(group):
        assert abs(float(advantages(rewards, group)[group == name].sum())) < 1e-9


def test_group_std_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    std = 0.5  # of 1, 0, 0, 0 with n - 1
    near(advantages(rewards, GROUP, "group_std"), [a / (std + 1e-6) for a in (0.75, -0.25, -0.25, -0.25)])


def test_kl_estimators_at_equality_clamp_and_unknown():
    x = torch.tensor([-0.5, -3.0])
    for estimator in ("k1", "k2", "k3"):
        assert (kl_per_token(x, x, estimator) == 0).all()
    assert float(kl_per_token(torch.tensor(-30.0), torch.tensor(0.0), "k3", clamp=10.0)) == 10.0
    with pytest.raises(ValueError, match="k4"):
        kl_per_token(x, x, "k4")


def test_dropped_sequences_leave_numerator_and_denominator():
    kept = torch.tensor([True, False, True, True])
    weights = sequence_weights(LENGTHS, "token_mean", kept)
    near(weights, [1 / 9, 0.0, 1 / 9, 1 / 9])
    assert float(sequence_weights(LENGTHS, "token_mean", torch.zeros(4, dtype=torch.bool)).sum()) == 0.0


def test_gradient_does_not_depend_on_the_split_into_micro_batches():
    torch.manual_seed(0)
    logits = torch.randn(4, 4, dtype=torch.float64)
    weights, adv = sequence_weights(LENGTHS), golden_advantages()
    grads = []
    for size, order in itertools.product((1, 2, 3, 4), ([0, 1, 2, 3], [2, 0, 3, 1])):
        x = logits.clone().requires_grad_()
        for start in range(0, 4, size):
            rows = torch.tensor(order[start : start + size])
            lp = torch.nn.functional.logsigmoid(x[rows])
            policy_loss(lp, lp.detach(), adv[rows], weights[rows], MASK[rows]).backward()
        grads.append(x.grad)
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], atol=1e-12, rtol=0)


def test_expected_gradient_is_the_policy_gradient_of_a_toy_policy():
    """Enumerate all groups of two one-token samples of a three-token policy: RLOO is unbiased."""
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    exact = torch.autograd.grad((theta.softmax(0) * value).sum(), theta)[0]
    mean = torch.zeros(3, dtype=torch.float64)
    for pair in itertools.product(range(3), repeat=2):
        tokens = torch.tensor(pair)
        lp = theta.log_softmax(0)[tokens]
        adv = advantages(value[tokens], torch.zeros(2, dtype=torch.long))
        loss = policy_loss(lp[:, None], lp.detach()[:, None], adv, sequence_weights(torch.ones(2)), torch.ones(2, 1))
        probability = float(theta.detach().softmax(0)[tokens].prod())
        mean -= probability * torch.autograd.grad(loss, theta)[0]
    torch.testing.assert_close(mean, exact)


def test_clip_higher_by_hand():
    """DAPO, eps_low .2 and eps_high .28: ratios 1.5, .5, 1.5, .5 have gains 1.28, .5, -1.5, -.8.

    A ratio has a gradient where the minimum takes the gain without the clip.
    """
    lp = torch.tensor([[1.5, 0.5], [1.5, 0.5]], dtype=torch.float64).log().requires_grad_()
    options = LossOptions(clip=0.2, clip_high=0.28)
    arguments = (
        torch.zeros_like(lp),
        torch.tensor([1.0, -1.0]),
        sequence_weights(torch.tensor([2, 2])),
        torch.ones(2, 2),
    )
    loss = policy_loss(lp, *arguments, options)
    near(loss, -(1.28 + 0.5 - 1.5 - 0.8) / 4)
    near(torch.autograd.grad(loss, lp)[0].flatten(), [0.0, -0.5 / 4, 1.5 / 4, 0.0])
    symmetric = policy_loss(lp, *arguments, LossOptions(clip=0.2))
    assert torch.equal(policy_loss(lp, *arguments, LossOptions(clip=0.2, clip_high=0.2)), symmetric)
    near(symmetric, -(1.2 + 0.5 - 1.5 - 0.8) / 4)


def test_gspo_by_hand():
    """Mean log-ratios (.1, -.3, .2, .4), so s = (1.105171, .740818, 1.221403, 1.491825); A = (2, -2, -2, 2) / 3.

    With clip .2 and .28 the second and the fourth are clipped. L is minus the mean gain (GSPO, Eq. 5), with the
    gradient -s A / (4 T) at a token of the others.
    """
    moved = [[0.3, -0.15, 0.15], [-0.2, -0.4], [0.1, 0.1, 0.1, 0.5], [0.4, 0.4]]
    lp = torch.nan_to_num(padded(OLD) + padded(moved)).requires_grad_()
    options = LossOptions(clip=0.2, clip_high=0.28, ratio="gspo")
    advantage = advantages(REWARD, GROUP)
    loss = policy_loss(lp, padded(OLD), advantage, sequence_weights(LENGTHS, "sequence_mean"), MASK, options)
    near(loss, -(0.736781 - 0.533333 - 0.814269 + 0.853333) / 4)
    (gradient,) = torch.autograd.grad(loss, lp)
    for i, value in enumerate([-0.061398, 0.0, 0.050892, 0.0]):
        near(gradient[i, : LENGTHS[i]], [value] * int(LENGTHS[i]))
        assert (gradient[i, LENGTHS[i] :] == 0).all()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_on_policy_gspo_has_the_gradient_of_the_token_ratio(aggregation):
    weights, gradients = sequence_weights(LENGTHS, aggregation), []
    for ratio in ("token", "gspo"):
        lp = torch.nan_to_num(padded(OLD)).requires_grad_()
        loss = policy_loss(lp, lp.detach(), golden_advantages(), weights, MASK, LossOptions(clip=0.2, ratio=ratio))
        gradients.append(torch.autograd.grad(loss, lp)[0])
    torch.testing.assert_close(*gradients)


def test_clip_and_entropy():
    lp = torch.tensor([[0.5]], dtype=torch.float64)
    old = torch.zeros_like(lp)
    ones = torch.ones(1, 1)
    loss = policy_loss(lp, old, torch.ones(1), torch.ones(1), ones, LossOptions(clip=0.2))
    assert float(loss) == pytest.approx(-1.2)
    entropy = torch.tensor([[2.0]], dtype=torch.float64)
    bonus = LossOptions(entropy_coefficient=0.5)
    loss = policy_loss(lp, lp, torch.zeros(1), torch.ones(1), ones, bonus, entropy=entropy)
    assert float(loss) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="entropy"):
        policy_loss(lp, lp, torch.zeros(1), torch.ones(1), ones, bonus)
