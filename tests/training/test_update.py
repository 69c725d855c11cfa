"""The update against the same objective written out over the whole batch, without packs, streaming or processes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from srt.config.train import PRESETS
from srt.cost.memory import token_bytes
from srt.cost.shapes import Shape
from srt.distributed.offload import OffloadedModel
from srt.objective.advantages import advantages, unanimous
from srt.objective.kl import kl_per_token
from srt.objective.mismatch import importance_weights
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights
from srt.packing.activation_checkpointing import ActivationRoom, checkpoint_activations
from srt.training.batches import Batch
from srt.training.objectives import policy_update
from srt.training.reference import Reference
from support.plain_update import ALONE, Plain, hyperparameters, policy_and_reference
from support.tiny_models import one_by_one

# Four groups of four: one without a label, one unanimous; lengths from 1 to 15.
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [4, 4]]
LENGTHS = [[4, 9, 1, 6], [15, 2, 2, 3], [1, 1, 8, 5], [7, 3, 12, 2]]
REWARDS = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0.5, 0.25], [1, 1, 1, 1]]
LABELLED = [True, False, True, True]


@pytest.fixture
def models(monkeypatch):
    return policy_and_reference(monkeypatch)


def batch() -> Batch:
    rng = np.random.default_rng(3)
    responses = [rng.integers(0, 30, n).astype(np.int32) for row in LENGTHS for n in row]
    return Batch(
        prompts=[PROMPTS[g] for g in range(4) for _ in range(4)],
        responses=responses,
        group=[g for g in range(4) for _ in range(4)],
        rewards=np.array(REWARDS, dtype=float).ravel(),
        labelled=np.repeat(LABELLED, 4),
        rollout_logprobs=[(rng.normal(-3.4, 0.3, len(r))).astype(np.float32) for r in responses],
    )


def everything(model, b: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, entropies, mask [N, T] from one unpadded pass per sequence."""
    longest = max(len(r) for r in b.responses)
    logp, entropy = (torch.zeros(len(b.responses), longest, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(logp.shape, dtype=torch.bool)
    for i, (prompt, response) in enumerate(zip(b.prompts, b.responses, strict=True)):
        rows = one_by_one(model, prompt, response, temperature)
        t = len(response)
        logp[i, :t] = rows[torch.arange(t), torch.from_numpy(response).long()]
        entropy[i, :t] = -(rows.exp() * rows).sum(-1)
        mask[i, :t] = True
    return logp, entropy, mask


def naive(model, reference, b: Batch, train: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Gradients of every step on the batch, with the same steps taken as by `Plain`."""
    temperature = train["temperature"]
    with torch.no_grad():
        ref, _, mask = everything(reference, b, temperature)
        old, _, _ = everything(model, b, temperature)
        kl = torch.where(mask, kl_per_token(old, ref, train["kl_estimator"], train["kl_clamp"]), 0.0)
    labelled, group = torch.from_numpy(b.labelled), torch.tensor(b.group)
    scores = torch.from_numpy(b.rewards)
    if train["kl_placement"] == "reward":
        scores = scores - train["kl_coefficient"] * kl.sum(-1) * labelled
    advantage = advantages(scores, group, train["advantage"], labelled)
    lengths = torch.tensor([len(r) for r in b.responses])
    kept = labelled if train["unparsable_groups"] == "drop" else None
    weights = sequence_weights(lengths, train["aggregation"], kept, train["micro_batch_sequences"])
    if train["skip_unanimous"]:
        weights = weights * ~unanimous(torch.from_numpy(b.rewards), group)
    rollout = torch.zeros_like(old)
    for i, row in enumerate(b.rollout_logprobs):
        rollout[i, : len(row)] = torch.from_numpy(row)
    cap = train["importance_cap"]
    found = []
    for _ in range(train["iterations"]):
        logp, entropy, _ = everything(model, b, temperature)
        loss = policy_loss(
            logp, old, advantage, weights, mask,
            LossOptions(
                train["clip"], train["ratio"], train["entropy_coefficient"],
                train["kl_coefficient"] if train["kl_placement"] == "loss" else 0.0, train["kl_estimator"],
                train["kl_clamp"], train["clip_high"],
            ),
            entropy=entropy, importance=importance_weights(old, rollout, mask, cap) if cap else None, ref=ref,
        )  # fmt: skip
        loss.backward()
        plain = Plain(model)
        plain.step()
        found += plain.steps
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    **{preset: {"preset": preset} for preset in PRESETS},
    "group_std": {"advantage": "group_std"},
    **{a: {"aggregation": a} for a in ("sequence_mean", "sequence_sum", "token_mean_micro")},
    "k2 in the loss": {"kl_placement": "loss", "kl_estimator": "k2"},
    "k3 clamped in the loss": {"kl_placement": "loss", "kl_clamp": 0.1},
    "entropy": {"entropy_coefficient": 0.3},
    "importance": {"importance_cap": 1.5},
    "unanimous skipped": {"skip_unanimous": True},
    "three steps": {"iterations": 3, "clip": 0.02, "importance_cap": 2.0, "entropy_coefficient": 0.1},
    "two steps of sequences": {"preset": "trl", "iterations": 2, "clip": 0.02},
    "two steps of gspo, Clip-Higher": {"ratio": "gspo", "iterations": 2, "clip": 0.002, "clip_high": 0.003},
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_update_is_the_objective_over_the_whole_batch(models, name):
    """In double precision, with packs of one row, of parts of groups, of several groups."""
    model, reference = models
    train = hyperparameters(**VARIANTS[name])
    expected = naive(copy.deepcopy(model), reference, batch(), train)
    for budget in (1, 25, 60, 10**6):
        plain = Plain(copy.deepcopy(model))
        result = policy_update(plain, Reference(reference), {**train, "micro_batch_tokens": budget}, ALONE).run(batch())
        assert len(plain.steps) == len(expected) == train["iterations"]
        for ours, theirs in zip(plain.steps, expected, strict=True):
            for key, grad in theirs.items():
                torch.testing.assert_close(ours[key], grad, atol=1e-11, rtol=1e-9)
        assert max(float(g.abs().max()) for g in expected[0].values()) > 1e-3
        assert sum(plain.norms) == train["iterations"] and plain.norms[-1]
        assert result["skipped"] == 0 and result["kl"] != 0


@pytest.mark.parametrize("name", ["clean", "authors", "trl", "k2 in the loss", "importance"])
def test_one_pass_is_two_passes_bit_for_bit(models, name):
    """Without a separate pass for the old policy, the same packs give the same bytes as with one."""
    model, reference = models
    train = hyperparameters(**VARIANTS[name])
    found = []
    for two_pass in (False, True):
        plain = Plain(copy.deepcopy(model))
        update = policy_update(plain, Reference(reference), train, ALONE)
        assert not update.two_pass
        update.two_pass = two_pass
        found.append((plain.steps, update.run(batch())))
    (one, result), (two, other) = ((steps[0], r) for steps, r in found)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert result.pop("packed_tokens") <= other.pop("packed_tokens") and result == other


@pytest.mark.parametrize("changes", [{}, {"iterations": 2, "clip": 0.2, "entropy_coefficient": 0.1}])
def test_layers_that_keep_their_activations_change_no_bit(models, changes):
    """None, some and all of four layers, as many as the tokens of a unit or pack leave room for."""
    model, reference = copy.deepcopy(models[0]), models[1]
    layers, shape = model.config.num_hidden_layers, Shape.of(model.config)
    train = hyperparameters(micro_batch_tokens=40, **changes)
    plain = Plain(copy.deepcopy(model))
    expected = policy_update(plain, Reference(reference), train, ALONE).run(batch())
    full, selective = (token_bytes(shape, "float32", mode) for mode in ("full", "selective"))
    used = set()
    for share in (0.0, 0.6, 1.0):
        ours = Plain(copy.deepcopy(model))
        checkpoint_activations(ours.model, "full")
        room = ActivationRoom(ours.model, shape, "float32", 40 * (full + share * (selective - full)))
        counts = [room.use(tokens) for tokens in (30, 60)]
        assert counts[0] >= counts[1]
        used.update(counts)
        result = policy_update(ours, Reference(reference), train, ALONE, activations=room).run(batch())
        assert result == expected
        for steps, wanted in zip(ours.steps, plain.steps, strict=True):
            assert all(torch.equal(steps[name], gradient) for name, gradient in wanted.items())
    assert {0, layers} <= used and len(used) > 2


def test_a_group_that_exceeds_the_room_goes_through_the_model_twice_and_changes_no_bit(models):
    """Units of several packs, whose graphs are then in memory one at a time."""
    model, reference = copy.deepcopy(models[0]), models[1]
    train, graphs = hyperparameters(micro_batch_tokens=16, entropy_coefficient=0.1), []
    found = []
    for room in (0.0, 1e12):
        ours = Plain(copy.deepcopy(model))
        checkpoint_activations(ours.model, "full")
        activations = ActivationRoom(ours.model, Shape.of(model.config), "float32", room)
        update = policy_update(ours, Reference(reference), train, ALONE, activations=activations)
        forward, calls = update._forward, []
        update._forward = lambda *args, calls=calls, forward=forward: calls.append(args) or forward(*args)
        found.append((update.run(batch()), ours.steps[0]))
        graphs.append(len(calls))
    (result, gradients), (expected, wanted) = found
    assert graphs[0] > graphs[1] and result == expected
    assert all(torch.equal(gradients[name], gradient) for name, gradient in wanted.items())


def test_order_of_groups_and_of_responses_does_not_matter(models):
    model, reference = models
    train, b = hyperparameters(micro_batch_tokens=40), batch()
    rng = np.random.default_rng(0)
    order = [4 * g + i for g in rng.permutation(4) for i in rng.permutation(4)]
    found = []
    for rows in (list(range(16)), [int(i) for i in order]):
        plain = Plain(copy.deepcopy(model))
        policy_update(plain, Reference(reference), train, ALONE).run(b.take(rows))
        found.append(plain.steps[0])
    for key, grad in found[0].items():
        torch.testing.assert_close(found[1][key], grad, atol=1e-12, rtol=1e-9)


def test_the_mismatch_is_checked_before_weights_change(models):
    model, reference = models
    plain = Plain(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    seen: list[float] = []

    def check(difference: float) -> None:
        seen.append(difference)
        raise RuntimeError("stop")

    for iterations in (1, 2):
        train = hyperparameters(iterations=iterations, clip=0.2)
        with pytest.raises(RuntimeError, match="stop"):
            policy_update(plain, Reference(reference), train, ALONE, check).run(batch())
    assert len(seen) == 2 and seen[0] == pytest.approx(seen[1]) and seen[0] > 0.01
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert plain.steps == []


@pytest.mark.parametrize("iterations", [1, 2])
def test_distances_from_the_plain_pass_are_those_of_the_worst_responses(models, iterations):
    """Two responses whose log-probs the engine got wrong by nats, and the two worst of the others."""
    model, reference = models
    b, found = batch(), []
    plain = [
        one_by_one(model, prompt, r, 0.8).gather(-1, torch.from_numpy(r).long()[:, None])[:, 0].detach().numpy()
        for prompt, r in zip(b.prompts, b.responses, strict=True)
    ]
    for i, row in enumerate(plain):
        b.rollout_logprobs[i] = row + {2: 3.0, 5: -5.0}.get(i, 1e-3 * i)
    train = hyperparameters(iterations=iterations, clip=0.2)

    def check(difference: float) -> None:
        found.append(update.distances_from_plain())

    update = policy_update(Plain(model), Reference(reference), train, ALONE, check)
    update.run(b)
    worst = [5, 2, len(plain) - 1, len(plain) - 2]
    lengths = [len(b.responses[i]) for i in worst]
    by = [5.0, 3.0, 1e-3 * worst[2], 1e-3 * worst[3]]
    trainer, engine = found[0]
    assert trainer < 1e-5 and engine == pytest.approx(np.average(by, weights=lengths), rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("whole", [False, True], ids=["one token", "all tokens"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_the_mismatch_check_sees_log_probs_that_are_not_finite(models, value, whole, iterations):
    """The means leave such tokens out; if none remained, they would show no difference at all."""
    model, reference = models
    b, seen = batch(), []
    for row in b.rollout_logprobs if whole else [b.rollout_logprobs[9][-1:]]:
        row[:] = value
    train = hyperparameters(iterations=iterations, clip=0.2)
    policy_update(Plain(model), Reference(reference), train, ALONE, seen.append).run(b)
    assert len(seen) == 1 and math.isnan(seen[0])


def test_the_mismatch_check_sees_a_trainer_without_numbers(models):
    model, reference = models
    seen: list[float] = []
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    policy_update(Plain(model), Reference(reference), hyperparameters(), ALONE, seen.append).run(batch())
    assert len(seen) == 1 and math.isnan(seen[0])


@pytest.mark.parametrize("poisoned", [(), (0,), (1,), (0, 1, 2)])
def test_every_iteration_that_was_left_out_is_counted(models, poisoned):
    """The norm is that of the last update that was made."""
    model, reference = models

    class Poisoned(Plain):
        calls = 0

        def step(self) -> tuple[float, bool]:
            number, self.calls = self.calls, self.calls + 1
            if number not in poisoned:
                return super().step()[0] * 0 + 10.0 + number, True
            self.model.zero_grad()
            return math.nan, False

    train = hyperparameters(iterations=3, clip=0.2)
    result = policy_update(Poisoned(copy.deepcopy(model)), Reference(reference), train, ALONE).run(batch())
    assert result["skipped"] == len(poisoned)
    made = [10.0 + n for n in range(3) if n not in poisoned]
    assert result["grad_norm"] == made[-1] if made else math.isnan(result["grad_norm"])


def test_a_batch_of_nothing_to_learn_still_reduces(models):
    """With all groups skipped there is one backward pass of weight 0, or ranks would wait for each other forever."""
    model, reference = models
    b = batch()
    b = Batch(b.prompts, b.responses, b.group, np.ones(16), b.labelled, b.rollout_logprobs)
    plain = Plain(model)
    result = policy_update(plain, Reference(reference), hyperparameters(skip_unanimous=True), ALONE).run(b)
    assert plain.norms == [True] and all((g == 0).all() for g in plain.steps[0].values())
    assert result["packed_tokens"] == 0 and result["tokens"] > 0


@pytest.mark.parametrize("aggregation", ["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_masked_responses_leave_nothing_but_their_reward(models, aggregation, placement):
    """Other tokens and other lengths of masked responses change no gradient; their rewards do, through the baseline."""
    masked = np.arange(16) % 4 == 1
    rng = np.random.default_rng(9)

    def gradient(other_responses: bool = False, other_rewards: bool = False) -> dict[str, torch.Tensor]:
        b = batch()
        if other_responses:
            b.responses[:] = [
                rng.integers(0, 30, 13).astype(np.int32) if hidden else r
                for r, hidden in zip(b.responses, masked, strict=True)
            ]
            b.rollout_logprobs[:] = [np.full(len(r), -3.0, np.float32) for r in b.responses]
        rewards = b.rewards + 0.5 * masked if other_rewards else b.rewards
        b = Batch(b.prompts, b.responses, b.group, rewards, b.labelled, b.rollout_logprobs, masked)
        plain = Plain(copy.deepcopy(models[0]))
        train = hyperparameters(
            preset="authors", aggregation=aggregation, kl_placement=placement, entropy_coefficient=0.1
        )
        result = policy_update(plain, Reference(models[1]), train, ALONE).run(b)
        assert result["kept_rate"] == 0.75
        return plain.steps[0]

    given, same, other = gradient(), gradient(other_responses=True), gradient(other_rewards=True)
    assert max(float(g.abs().max()) for g in given.values()) > 1e-3
    for name, expected in given.items():
        torch.testing.assert_close(same[name], expected, atol=1e-12, rtol=1e-9)
    assert any(not torch.allclose(other[name], expected, rtol=1e-3) for name, expected in given.items())


def test_a_batch_of_masked_responses_alone_changes_nothing(models):
    b = batch()
    b = Batch(b.prompts, b.responses, b.group, b.rewards, b.labelled, b.rollout_logprobs, np.ones(16, dtype=bool))
    plain = Plain(models[0])
    result = policy_update(plain, Reference(models[1]), hyperparameters(), ALONE).run(b)
    assert all((g == 0).all() for g in plain.steps[0].values()) and result["kept_rate"] == 0 and result["loss"] == 0


def test_joined_batches_keep_groups_apart():
    b = batch()
    both = Batch.joined([b.take(list(range(8))), b.take(list(range(4)))])
    assert both.masked is None
    hidden = Batch(b.prompts, b.responses, b.group, b.rewards, b.labelled, b.rollout_logprobs, np.arange(16) % 3 == 0)
    joined = Batch.joined([hidden.take([3, 4]), hidden.take([6, 7])])
    assert joined.masked is not None and joined.masked.tolist() == [True, False, True, False]
    assert both.group == [0] * 4 + [1] * 4 + [2] * 4 and len(both.rewards) == 12
    assert Batch.joined([b]).group == b.group


@pytest.mark.parametrize("changes", [{}, {"iterations": 2, "clip": 0.2}])
def test_an_offloaded_reference_changes_no_bit(models, changes):
    """All passes of the reference come first; while gradients exist, its weights are off the device."""
    found = []
    for offloading in (False, True):
        policy, reference = copy.deepcopy(models[0]), copy.deepcopy(models[1])
        offloaded = OffloadedModel(reference, torch.device("cpu")) if offloading else None
        on_host = {p.data_ptr() for p in reference.parameters()}

        class Watching(Plain):
            def backward(self, loss: torch.Tensor, last: bool) -> None:
                assert {p.data_ptr() for p in reference.parameters()} == on_host  # noqa: B023
                super().backward(loss, last)

        plain = Watching(policy)
        update = policy_update(plain, Reference(reference, offloaded), hyperparameters(**changes), ALONE)
        found.append((update.run(batch()), plain.steps))
        assert plain.norms and not update.reference._ahead
    (one, steps), (two, others) = found
    assert {k: v for k, v in one.items() if v == v} == {k: v for k, v in two.items() if v == v}
    for a, b in zip(steps, others, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
