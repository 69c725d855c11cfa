"""Expected gradients, summed over every possible group of a toy policy, against finite differences of the objective.

The policy has three tokens, of which 0 ends a response, and responses of at most two tokens: 7 responses, 3 states.
This finds signs, factors and KL mistakes that no test of one batch can see.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from srt.objective.advantages import advantages
from srt.objective.kl import kl_per_token, masked_sum
from srt.objective.mismatch import importance_weights
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights

RESPONSES = [(0,), *itertools.product((1, 2), (0, 1, 2))]
STATES = torch.tensor(
    [[0, r[0]] for r in RESPONSES]
)  # the state before token 1 and 2: the previous token, 0 at the start
TOKENS = torch.tensor([[r[0], r[-1]] for r in RESPONSES])
LENGTHS = torch.tensor([len(r) for r in RESPONSES])
MASK = torch.arange(2)[None, :] < LENGTHS[:, None]
VALUE = torch.tensor([0.2, 1.0, 0.0, 0.7, -0.4, 0.3, 0.9], dtype=torch.float64)  # the reward of each response
BETA = 0.3

generator = torch.Generator().manual_seed(4)
THETA = torch.randn(3, 3, generator=generator, dtype=torch.float64)  # logits [state, token]
REF = torch.randn(3, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
BEHAVIOUR = torch.randn(3, 3, generator=generator, dtype=torch.float64).log_softmax(-1)


def token_logprobs(table: Tensor) -> Tensor:
    """[7, 2] log-probs of the tokens of every response under log-probs [state, token]."""
    return table[STATES, TOKENS]


def probabilities(table: Tensor) -> Tensor:
    return masked_sum(token_logprobs(table), MASK).exp()


def expected_update(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], n: int = 2, sampler: Tensor | None = None
) -> Tensor:
    """Minus the mean gradient of `loss_of(rows, log-probs [state, token], weights)` over all groups of n responses."""
    theta = THETA.clone().requires_grad_()
    table = theta.log_softmax(-1)
    chance = probabilities(table.detach() if sampler is None else sampler)
    total = torch.zeros((), dtype=torch.float64)
    weights = sequence_weights(torch.ones(n), "sequence_sum")
    for group in itertools.product(range(len(RESPONSES)), repeat=n):
        rows = torch.tensor(group)
        total = total + chance[rows].prod() * loss_of(rows, table, weights)
    return -torch.autograd.grad(total, theta)[0]


def finite_difference(objective: Callable[[Tensor], Tensor], step: float = 1e-5) -> Tensor:
    """Central differences of `objective(log-probs [state, token])` at THETA."""
    grad = torch.zeros_like(THETA)
    for index in itertools.product(range(3), repeat=2):
        ends = []
        for sign in (1, -1):
            theta = THETA.clone()
            theta[index] += sign * step
            ends.append(float(objective(theta.log_softmax(-1))))
        grad[index] = (ends[0] - ends[1]) / (2 * step)
    return grad


def near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-8, rtol=1e-7)
    assert float(expected.abs().max()) > 1e-3  # the comparison is not of empty tensors


NOW = THETA.log_softmax(-1)
PREFIX = torch.tensor([1.0, *NOW[0, 1:].exp()], dtype=torch.float64)  # how often each state is visited
ZERO = torch.zeros(2, dtype=torch.long)


def kl_sums(estimator: str, table: Tensor) -> Tensor:
    return masked_sum(kl_per_token(token_logprobs(table), token_logprobs(REF), estimator), MASK)


def mean_reward(table: Tensor) -> Tensor:
    return (probabilities(table) * VALUE).sum()


def sequence_kl(table: Tensor) -> Tensor:
    return (probabilities(table) * masked_sum(token_logprobs(table) - token_logprobs(REF), MASK)).sum()


def rloo(
    rows: Tensor, table: Tensor, weights: Tensor, estimator: str | None = None, options: LossOptions | None = None,
    **terms: Tensor,
) -> Tensor:  # fmt: skip
    """The loss of a group as the trainer computes it, strictly on-policy."""
    logprobs = token_logprobs(table)[rows]
    scores = VALUE[rows] - (BETA * kl_sums(estimator, table.detach())[rows] if estimator else 0.0)
    advantage = advantages(scores, torch.zeros_like(rows))
    return policy_loss(logprobs, logprobs.detach(), advantage, weights, MASK[rows], options, **terms)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_rloo_is_the_policy_gradient(n, ratio):
    options = LossOptions(clip=0.2, ratio=ratio)
    near(expected_update(lambda *a: rloo(*a, options=options), n), finite_difference(mean_reward))


def test_rloo_with_k1_in_the_reward_descends_the_kl():
    near(
        expected_update(lambda *a: rloo(*a, estimator="k1")),
        finite_difference(lambda t: mean_reward(t) - BETA * sequence_kl(t)),
    )


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_rloo_with_a_kl_in_the_reward_is_the_gradient_of_that_fixed_reward(estimator):
    """k2 and k3 act as rewards; a policy gradient does not differentiate a reward by the policy."""
    fixed = VALUE - BETA * kl_sums(estimator, NOW)
    near(
        expected_update(lambda *a: rloo(*a, estimator=estimator)),
        finite_difference(lambda t: (probabilities(t) * fixed).sum()),
    )
    assert float((probabilities(NOW) * kl_sums("k3", NOW)).sum()) == pytest.approx(float(sequence_kl(NOW)))  # unbiased


def test_k3_in_the_reward_hardly_pulls_back_near_the_reference():
    """On one token, its penalty descends KL(policy || ref) - KL(ref || policy): of second order in the distance.

    k1 descends KL(policy || ref): first order. So at a tenth of the distance k1 has a tenth of its gradient and k3 a
    hundredth.
    """
    ends = torch.randn(3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    sizes = {}
    for distance in (1e-2, 1e-3):
        theta = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
        table = theta.log_softmax(0)
        ref = (theta.detach() + distance * ends).log_softmax(0)
        forward, backward = (table.exp() * (table - ref)).sum(), (ref.exp() * (ref - table)).sum()
        for estimator, divergence in (("k1", forward), ("k3", forward - backward)):
            penalty = kl_per_token(table.detach(), ref, estimator)
            found = torch.autograd.grad((table.exp() * penalty).sum(), theta, retain_graph=True)[0]
            expected = torch.autograd.grad(divergence, theta, retain_graph=True)[0]
            torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-6)
            sizes[estimator, distance] = float(found.norm())
    assert sizes["k1", 1e-3] / sizes["k1", 1e-2] == pytest.approx(0.1, rel=0.05)
    assert sizes["k3", 1e-3] / sizes["k3", 1e-2] == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        ("k2", lambda t: (t.exp() * (t - REF)).sum(-1)),  # KL(policy || reference), the intended one
        ("k3", lambda t: (REF.exp() * (REF - t)).sum(-1)),  # KL(reference || policy)
        ("k1", lambda t: torch.zeros(3, dtype=torch.float64)),
    ],
)
def test_what_a_kl_in_the_loss_descends(estimator, divergence):
    """Per state, weighted by how often the current policy visits it."""

    def loss(rows: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        ref = token_logprobs(REF)[rows]
        return rloo(rows, table, weights, options=LossOptions(kl_coefficient=BETA, kl_estimator=estimator), ref=ref)

    penalty = expected_update(loss) - expected_update(rloo)
    expected = -BETA * finite_difference(lambda t: (PREFIX * divergence(t)).sum())
    if estimator == "k1":
        assert float(penalty.abs().max()) < 1e-12 and float(expected.abs().max()) == 0.0
    else:
        near(penalty, expected)


def test_entropy_bonus_climbs_the_entropy():
    def loss(rows: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        entropy = -(table.exp() * table).sum(-1)[STATES][rows]
        return rloo(rows, table, weights, options=LossOptions(entropy_coefficient=BETA), entropy=entropy)

    bonus = finite_difference(lambda t: BETA * (PREFIX * -(t.exp() * t).sum(-1)).sum())
    near(expected_update(loss) - expected_update(rloo), bonus)


@pytest.mark.parametrize(("leave_one_out", "share"), [(False, 1 / 2), (True, 1.0)])
def test_a_baseline_that_contains_its_own_sample_shrinks_the_gradient(leave_one_out, share):
    """It shrinks by (n - 1) / n, here 1/2; a leave-one-out baseline does not shrink it."""

    def loss(rows: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        logprobs = token_logprobs(table)[rows]
        value = VALUE[rows]
        advantage = advantages(value, ZERO) if leave_one_out else value - value.mean()
        return policy_loss(logprobs, logprobs.detach(), advantage, weights, MASK[rows])

    near(expected_update(loss), share * finite_difference(mean_reward))


def test_sequence_ratio_corrects_for_samples_of_another_policy():
    """Unclipped, on samples of an old policy, it is the gradient at the current policy (several iterations)."""

    def loss(rows: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        old = token_logprobs(BEHAVIOUR)[rows]
        advantage = advantages(VALUE[rows], ZERO)
        return policy_loss(
            token_logprobs(table)[rows], old, advantage, weights, MASK[rows], LossOptions(ratio="sequence")
        )

    near(expected_update(loss, sampler=BEHAVIOUR), finite_difference(mean_reward))


def test_importance_weights_correct_for_an_engine_that_samples_otherwise():
    """Exactly, for one token and a cap above every weight; a lower cap leaves a bias."""
    value = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    mask = torch.ones(2, 1, dtype=torch.bool)
    theta = THETA[2].clone().requires_grad_()
    table, engine = theta.log_softmax(0), BEHAVIOUR[2]

    def update(cap: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for pair in itertools.product(range(3), repeat=2):
            rows = torch.tensor(pair)
            logprobs, rollout = table[rows][:, None], engine[rows][:, None]
            loss = policy_loss(
                logprobs, logprobs.detach(), advantages(value[rows], ZERO),
                sequence_weights(torch.ones(2)), mask, importance=importance_weights(logprobs, rollout, mask, cap),
            )  # fmt: skip
            total = total + engine[rows].exp().prod() * loss
        return -torch.autograd.grad(total, theta, retain_graph=True)[0]

    exact = torch.autograd.grad((table.exp() * value).sum(), theta, retain_graph=True)[0]
    near(update(1e6), exact)
    assert float((update(1.0) - exact).abs().max()) > 1e-2
