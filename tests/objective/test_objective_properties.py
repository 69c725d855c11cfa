"""Properties of the objective on random batches: brute force, invariances, no leaks, inputs left unchanged."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srt.objective.advantages import advantages, unanimous
from srt.objective.kl import kl_per_token, masked_sum
from srt.objective.mismatch import combine_mismatch, importance_weights, mismatch
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights

ESTIMATORS = ("rloo", "group_std")
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.lists(st.integers(1, 32), min_size=1, max_size=4)
fixed = settings(deadline=None, derandomize=True, max_examples=40)


def near(actual: Tensor | float, expected: Tensor | float, atol: float = 1e-10) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64), atol=atol, rtol=0
    )


def groups_of(sizes: list[int], seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Rewards and group names of ragged groups, in random order."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.cat([torch.full((n,), 7 * i - 3) for i, n in enumerate(sizes)])
    group = group[torch.randperm(len(group), generator=generator)]
    return torch.randn(len(group), generator=generator, dtype=torch.float64), group, generator


def batch_of(seed: int, rows: int = 4, tokens: int = 5, spread: float = 0.3) -> dict[str, Tensor]:
    """Random ragged inputs of `policy_loss`; rows may be empty."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(0, tokens + 1, (rows,), generator=generator)
    old = -randn(rows, tokens).abs()
    return {
        "logprobs": old + spread * randn(rows, tokens),
        "old": old,
        "advantage": randn(rows),
        "weights": sequence_weights(lengths),
        "mask": torch.arange(tokens)[None, :] < lengths[:, None],
        "entropy": randn(rows, tokens).abs(),
        "importance": randn(rows, tokens).abs(),
        "ref": old + spread * randn(rows, tokens),
    }


def brute_advantages(rewards: list[float], group: list[int], estimator: str) -> list[float]:
    out = []
    for i, reward in enumerate(rewards):
        peers = [r for r, g in zip(rewards, group, strict=True) if g == group[i]]
        if estimator == "rloo":
            others = [rewards[j] for j in range(len(rewards)) if j != i and group[j] == group[i]]
            out.append(reward - sum(others) / len(others) if others else 0.0)
        else:
            mean = sum(peers) / len(peers)
            variance = sum((p - mean) ** 2 for p in peers) / max(1, len(peers) - 1)
            out.append((reward - mean) / (math.sqrt(variance) + 1e-6))
    return out


@pytest.mark.parametrize("estimator", ESTIMATORS)
@fixed
@given(SIZES, SEEDS)
def test_advantages_by_brute_force_on_ragged_groups(estimator, sizes, seed):
    rewards, group, _ = groups_of(sizes, seed)
    expected = brute_advantages(rewards.tolist(), group.tolist(), estimator)
    near(advantages(rewards, group, estimator), torch.tensor(expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 32])
def test_leave_one_out_is_unbiased_scaling_of_the_centred_reward(n):
    rewards, group, _ = groups_of([n], n)
    near(advantages(rewards, group), (rewards - rewards.mean()) * n / (n - 1))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_singleton_group_has_no_baseline_and_no_advantage(estimator):
    found = advantages(torch.tensor([3.0]), torch.tensor([5]), estimator)
    assert found.tolist() == [0.0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@fixed
@given(SIZES, SEEDS, st.floats(-5, 5))
def test_advantages_sum_to_zero_and_ignore_constants(estimator, sizes, seed, shift):
    rewards, group, generator = groups_of(sizes, seed)
    found = advantages(rewards, group, estimator)
    for name in group.unique():
        near(found[group == name].sum(), 0.0, atol=1e-6 if estimator == "group_std" else 1e-9)
    # any constant per group, as between easy and hard prompts
    shift = shift + torch.randn(int(group.max()) + 4, generator=generator, dtype=torch.float64)[group + 3]
    near(advantages(rewards + shift, group, estimator), found, atol=1e-7)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@fixed
@given(SIZES, SEEDS)
def test_uncounted_sequences_are_as_good_as_absent(estimator, sizes, seed):
    rewards, group, generator = groups_of(sizes, seed)
    counted = torch.rand(len(group), generator=generator) < 0.6
    found = advantages(torch.where(counted, rewards, torch.nan), group, estimator, counted)
    assert (found[~counted] == 0).all()
    if counted.any():
        near(found[counted], advantages(rewards[counted], group[counted], estimator), atol=1e-9)


def test_unknown_names_are_refused():
    x, group = torch.zeros(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="unknown advantage estimator 'gae'"):
        advantages(x, group, "gae")
    with pytest.raises(ValueError, match="unknown ratio 'group'"):
        policy_loss(x[:, None], x[:, None], x, x, torch.ones(2, 1), LossOptions(ratio="group"))
    with pytest.raises(ValueError, match="per token"):
        options = LossOptions(ratio="sequence")
        policy_loss(x[:, None], x[:, None], x, x, torch.ones(2, 1), options, importance=torch.ones(2, 1))
    with pytest.raises(ValueError, match="no log-probs of the reference"):
        policy_loss(x[:, None], x[:, None], x, x, torch.ones(2, 1), LossOptions(kl_coefficient=0.1))
    with pytest.raises(ValueError, match="unknown aggregation"):
        sequence_weights(torch.ones(2), "mean")


@fixed
@given(SIZES, SEEDS)
def test_unanimous_groups_by_brute_force(sizes, seed):
    rewards, group, _ = groups_of(sizes, seed)
    rewards = (rewards > 0.8).double()  # unanimous groups are common
    expected = [len({r for r, h in zip(rewards.tolist(), group.tolist(), strict=True) if h == g}) == 1 for g in group]
    assert unanimous(rewards, group).tolist() == expected


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@fixed
@given(SEEDS, st.sampled_from([None, 0.05, 0.2, 0.5]))
def test_ppo_clip_by_brute_force(ratio, seed, clip):
    """Value and gradient: there is no gradient where the ratio is out of range and the advantage pushes it further."""
    b = batch_of(seed)
    logprobs = b["logprobs"].clone().requires_grad_()
    loss = policy_loss(logprobs, b["old"], b["advantage"], b["weights"], b["mask"], LossOptions(clip, ratio))
    loss.backward()
    value, grad = 0.0, torch.zeros_like(b["old"])
    for i, length in enumerate(b["mask"].sum(-1).tolist()):
        a, w = float(b["advantage"][i]), float(b["weights"][i])
        delta = (b["logprobs"] - b["old"])[i, :length].tolist()
        terms = [(delta, range(length))] if ratio == "sequence" else [([d], [t]) for t, d in enumerate(delta)]
        for part, tokens in terms:
            r = math.exp(sum(part))
            bounded = r if clip is None else min(max(r, 1 - clip), 1 + clip)
            value -= w * min(r * a, bounded * a)
            stopped = (a > 0 and r > bounded) or (a < 0 and r < bounded)
            for t in tokens:
                grad[i, t] = 0.0 if stopped else -w * r * a
    near(loss.detach(), value)
    near(logprobs.grad, grad)


@fixed
@given(SEEDS)
def test_on_policy_the_clip_and_the_kind_of_ratio_change_no_gradient(seed):
    b = batch_of(seed)
    grads = []
    for options in ({}, {"clip": 0.2}, {"ratio": "sequence"}, {"ratio": "sequence", "clip": 0.2}):
        logprobs = b["logprobs"].clone().requires_grad_()
        loss = policy_loss(logprobs, logprobs.detach(), b["advantage"], b["weights"], b["mask"], LossOptions(**options))
        loss.backward()
        grads.append(logprobs.grad)
    for grad in grads:
        near(grad, -(b["weights"] * b["advantage"])[:, None] * b["mask"])


@fixed
@given(SEEDS, st.sampled_from([1.0, 1.2, 2.0]))
def test_truncated_importance_sampling_by_brute_force(seed, cap):
    """Constant weights min(p_trainer / p_rollout, cap), applied after PPO's minimum, but not to entropy and KL."""
    b = batch_of(seed, spread=0.8)
    rollout = b["ref"]
    c = importance_weights(b["old"], rollout, b["mask"], cap)
    logprobs = b["logprobs"].clone().requires_grad_()
    loss = policy_loss(
        logprobs,
        b["old"],
        b["advantage"],
        b["weights"],
        b["mask"],
        LossOptions(0.2, entropy_coefficient=0.1),
        entropy=b["entropy"],
        importance=c,
    )
    expected = 0.0
    for i, length in enumerate(b["mask"].sum(-1).tolist()):
        for t in range(length):
            w = min(math.exp(b["old"][i, t] - rollout[i, t]), cap)
            near(c[i, t], w)
            r, a = math.exp(b["logprobs"][i, t] - b["old"][i, t]), float(b["advantage"][i])
            gain = w * min(r * a, min(max(r, 0.8), 1.2) * a) + 0.1 * float(b["entropy"][i, t])
            expected -= float(b["weights"][i]) * gain
        assert (c[i, length:] == 0).all()
    near(loss.detach(), expected)
    assert not c.requires_grad and (c <= cap + 1e-12).all()


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
def test_masked_values_leak_neither_into_the_loss_nor_into_gradients(ratio, estimator, poison):
    clean = batch_of(11, rows=6)
    hidden = ~clean["mask"]
    assert hidden.any() and clean["mask"].any()
    found = []
    for value in (0.0, poison):
        b = {
            k: v.masked_fill(hidden, value) if v.shape == hidden.shape and k != "mask" else v for k, v in clean.items()
        }
        if ratio == "sequence":
            b["importance"] = None
        leaves = [b["logprobs"].clone().requires_grad_(), b["entropy"].clone().requires_grad_()]
        loss = policy_loss(
            leaves[0], b["old"], b["advantage"], b["weights"], b["mask"], LossOptions(0.2, ratio, 0.1, 0.1, estimator),
            entropy=leaves[1], importance=b["importance"], ref=b["ref"],
        )  # fmt: skip
        assert loss.isfinite()
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
        found[-1] += [
            masked_sum(b["old"], b["mask"]),
            importance_weights(b["logprobs"], b["old"], b["mask"], 2.0),
            torch.tensor(list(mismatch(b["logprobs"], b["old"], b["mask"]).values())),
        ]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert (found[1][1][hidden] == 0).all()


def test_no_input_is_changed():
    b = batch_of(3)
    group, rewards, counted = torch.tensor([0, 0, 1, 1]), b["advantage"], torch.tensor([True, True, True, False])
    lengths = b["mask"].sum(-1)
    inputs = [*b.values(), group, counted, lengths]
    before = [(x._version, x.clone()) for x in inputs]
    kl_per_token(b["old"], b["ref"], "k3", 10.0)
    masked_sum(b["old"], b["mask"])
    for estimator in ESTIMATORS:
        advantages(rewards, group, estimator, counted)
    unanimous(rewards, group)
    for aggregation in ("token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"):
        sequence_weights(lengths, aggregation, counted, 2)
    importance_weights(b["logprobs"], b["old"], b["mask"], 2.0)
    mismatch(b["logprobs"], b["old"], b["mask"])
    for ratio, importance in (("token", b["importance"]), ("sequence", None)):
        policy_loss(
            b["logprobs"], b["old"], rewards, b["weights"], b["mask"], LossOptions(0.2, ratio, 0.1, 0.1),
            entropy=b["entropy"], importance=importance, ref=b["ref"],
        )  # fmt: skip
    for x, (version, copy) in zip(inputs, before, strict=True):
        assert x._version == version and torch.equal(x, copy)


@fixed
@given(SEEDS)
def test_loss_with_everything_on_does_not_depend_on_the_split(seed):
    b = batch_of(seed, rows=6)
    generator = torch.Generator().manual_seed(seed)
    grads = []
    for size in (6, 1, 2, 4):
        logprobs = b["logprobs"].clone().requires_grad_()
        order = torch.randperm(6, generator=generator)
        for start in range(0, 6, size):
            r = order[start : start + size]
            policy_loss(
                logprobs[r], b["old"][r], b["advantage"][r], b["weights"][r], b["mask"][r],
                LossOptions(0.2, "token", 0.01, 0.1), entropy=b["entropy"][r], importance=b["importance"][r],
                ref=b["ref"][r],
            ).backward()  # fmt: skip
        grads.append(logprobs.grad)
    for grad in grads[1:]:
        near(grad, grads[0], atol=1e-12)


@fixed
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), SEEDS, st.integers(1, 9))
def test_weights_of_all_tokens_sum_to_one(sizes, seed, micro_batch):
    lengths = torch.tensor(sizes)
    kept = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed)) < 0.7
    kept[0] = True
    for aggregation in ("token_mean", "sequence_mean"):
        weights = sequence_weights(lengths, aggregation, kept)
        near((weights * lengths).sum(), 1.0)
        assert (weights[~kept] == 0).all()
    near(sequence_weights(lengths, "sequence_sum", kept).sum(), 1.0)
    near((sequence_weights(lengths, "token_mean_micro", None, micro_batch) * lengths).sum(), 1.0)


@fixed
@given(SEEDS, st.integers(1, 5))
def test_mismatch_of_parts_is_the_mismatch_of_the_whole(seed, size):
    b = batch_of(seed, rows=6)
    whole = combine_mismatch([mismatch(b["logprobs"], b["old"], b["mask"])])
    parts = [
        mismatch(b["logprobs"][i : i + size], b["old"][i : i + size], b["mask"][i : i + size])
        for i in range(0, 6, size)
    ]
    assert combine_mismatch(parts) == pytest.approx(whole, nan_ok=True)
    delta = [float(d) for d in (b["logprobs"] - b["old"])[b["mask"]]]
    if delta:
        expected = {
            "tokens": len(delta),
            "nonfinite": 0,
            "mean_abs": sum(map(abs, delta)) / len(delta),
            "max_abs": max(map(abs, delta)),
            "k3": sum(math.exp(d) - d - 1 for d in delta) / len(delta),
        }
        assert whole == pytest.approx(expected)


def test_mismatch_counts_what_is_not_finite_and_nothing_else_of_it():
    trainer = torch.tensor([[-1.0, -2.0, -3.0, -4.0]])
    rollout = torch.tensor([[-1.5, -math.inf, math.nan, -4.0]])
    mask = torch.tensor([[True, True, True, False]])
    found = combine_mismatch([mismatch(trainer, rollout, mask)])
    assert (found["tokens"], found["nonfinite"]) == (1, 2)
    assert found["mean_abs"] == found["max_abs"] == pytest.approx(0.5)
    assert importance_weights(trainer, rollout, mask, 9.0).tolist() == [[pytest.approx(math.e**0.5), 0.0, 0.0, 0.0]]
    empty = combine_mismatch([mismatch(trainer[:0], rollout[:0], mask[:0])])
    assert empty["tokens"] == 0 and math.isnan(empty["mean_abs"]) and math.isnan(empty["max_abs"])
    assert math.isnan(combine_mismatch([])["k3"])
