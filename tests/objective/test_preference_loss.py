"""SFT, DPO and ScPO: golden numbers, and the packed update against the same loss by autograd without packs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from srt.objective.preference_loss import margins, pair_gradient, pair_loss
from srt.training.batches import Batch
from srt.training.objectives import preference_update
from srt.training.reference import Reference
from support.plain_update import ALONE, Plain, hyperparameters, policy_and_reference
from support.tiny_models import one_by_one

# -- golden numbers: worked by hand in docs/trainer.md ----------------------------------------------------------------
# Two pairs, beta 0.1: S+ - R+ = (2, -1), S- - R- = (-1, 3), so m = (0.3, -0.4); S+ = (-6, -10), T+ = (4, 5).
M = torch.tensor([0.3, -0.4], dtype=torch.float64)
LOGP, LENGTH = torch.tensor([-6.0, -10.0], dtype=torch.float64), torch.tensor([4.0, 5.0], dtype=torch.float64)
WEIGHT = torch.tensor([0.5, 0.125], dtype=torch.float64)
ONE = torch.ones(2, dtype=torch.float64)


def test_margins():
    given = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([-1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(margins(*given, 0.1), M)


@pytest.mark.parametrize(
    ("weight", "nll", "loss", "slopes"),
    [
        # -log sigmoid(0.3) = 0.554355, -log sigmoid(-0.4) = 0.913015; sigmoid(-0.3) = 0.425557, sigmoid(0.4) = 0.598688
        (ONE, 0.0, [0.554355, 0.913015], [-0.0425557, -0.0598688, 0.0425557, 0.0598688]),
        # the NLL per token is 1.5 and 2, its slope -1/4 and -1/5
        (ONE, 1.0, [2.054355, 2.913015], [-0.2925557, -0.2598688, 0.0425557, 0.0598688]),
        (WEIGHT, 1.0, [1.0271775, 0.364126875], [-0.14627785, -0.0324836, 0.02127785, 0.0074836]),
    ],
)
def test_golden_numbers(weight, nll, loss, slopes):
    torch.testing.assert_close(pair_loss(M, LOGP, LENGTH, weight, nll), torch.tensor(loss).double(), atol=1e-6, rtol=0)
    found = torch.cat(pair_gradient(M, LENGTH, weight, 0.1, nll))
    torch.testing.assert_close(found, torch.tensor(slopes).double(), atol=1e-6, rtol=0)


def test_the_slopes_are_the_derivatives():
    generator = torch.Generator().manual_seed(2)
    chosen, rejected = (torch.randn(50, dtype=torch.float64, generator=generator) * 30 for _ in range(2))
    chosen.requires_grad_(), rejected.requires_grad_()
    length, weight = (
        torch.randint(1, 40, (50,), generator=generator).double(),
        torch.rand(50, generator=generator).double(),
    )
    pair_loss(margins(chosen, rejected, 0.3), chosen, length, weight, 0.7).sum().backward()
    slopes = pair_gradient(margins(chosen, rejected, 0.3).detach(), length, weight, 0.3, 0.7)
    torch.testing.assert_close(slopes[0], chosen.grad, atol=1e-14, rtol=1e-12)
    torch.testing.assert_close(slopes[1], rejected.grad, atol=1e-14, rtol=1e-12)


def test_margins_of_any_size_are_finite():
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    assert pair_loss(far, LOGP, LENGTH, ONE, 1.0).isfinite().all()
    assert pair_gradient(far, LENGTH, ONE, 0.1, 0.0)[1].tolist() == [0.1, 0.0]


# -- the update against autograd --------------------------------------------------------------------------------------

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [4, 4]]
LENGTHS = [(4, 9), (15, 2), (1, 8), (12, 12)]
SIGNS = [0.5, 0.25, 0.75, 1.0]


@pytest.fixture
def models(monkeypatch):
    return policy_and_reference(monkeypatch)


def batch(method: str) -> Batch:
    """Four pairs, or for SFT 8 responses to four prompts."""
    rng = np.random.default_rng(4)
    signs = [s for w in SIGNS for s in ((w, -w) if method != "sft" else (1.0, 1.0))]
    return Batch(
        prompts=[PROMPTS[g] for g in range(4) for _ in range(2)],
        responses=[rng.integers(0, 30, n).astype(np.int32) for pair in LENGTHS for n in pair],
        group=[g for g in range(4) for _ in range(2)],
        rewards=np.array(signs),
        labelled=np.ones(8, dtype=bool),
    )


def logps(model, b: Batch) -> torch.Tensor:
    """Log-probs of whole responses [N], from one unpadded pass each."""
    found = []
    for prompt, response in zip(b.prompts, b.responses, strict=True):
        rows = one_by_one(model, prompt, response, 1.0)
        found.append(rows[torch.arange(len(response)), torch.from_numpy(response).long()].sum())
    return torch.stack(found)


def plain(model, reference, b: Batch, method: str, beta: float, nll: float, aggregation: str) -> torch.Tensor:
    """The loss as the papers write it."""
    s = logps(model, b)
    lengths = torch.tensor([len(r) for r in b.responses])
    if method == "sft":
        return -s.sum() / lengths.sum() if aggregation == "token_mean" else -(s / lengths).mean()
    with torch.no_grad():
        r = logps(reference, b)
    ratio = s - r
    total = torch.zeros((), dtype=torch.float64)
    for k in range(4):
        w = SIGNS[k] if method == "scpo" else 1.0
        margin = beta * ratio[2 * k] - beta * ratio[2 * k + 1]
        total = total + w * torch.log1p(torch.exp(-margin)) - nll * w * s[2 * k] / len(b.responses[2 * k])
    return total / 4


def update(models, method: str, b: Batch, beta: float = 0.4, nll: float = 1.0, **changes: Any):
    model, reference = copy.deepcopy(models[0]), models[1]
    also = changes.pop("also", {})
    optimizer, train = Plain(model), hyperparameters(**changes) | also
    made = preference_update(
        optimizer, None if method == "sft" else Reference(reference), train, ALONE, method, {"beta": beta, "nll": nll}
    )
    result = made.run(b)
    return result, optimizer.steps, model


CASES = [
    ("sft", "token_mean", 1.0), ("sft", "sequence_mean", 1.0), ("dpo", "token_mean", 0.0), ("dpo", "token_mean", 1.0),
    ("scpo", "token_mean", 1.0),
]  # fmt: skip


# Set without the configuration, which refuses some of these combinations.
MEANINGLESS = {
    "skip_unanimous": True,
    "entropy_coefficient": 0.1,
    "advantage": "group_std",
    "temperature": 0.5,
    "kl_clamp": 0.1,
}


@pytest.mark.parametrize("zero_stage", [0, 3], ids=["one pass", "two passes"])
@pytest.mark.parametrize("budget", [1, 25, 10_000], ids=["a response a pack", "25 tokens", "one pack"])
@pytest.mark.parametrize(("method", "aggregation", "nll"), CASES)
def test_the_update_is_the_loss(models, method, aggregation, nll, budget, zero_stage):
    """Value and gradient, to 1e-10 in double precision; hyperparameters without meaning here have no effect."""
    model, reference = models
    b = batch(method)
    result, steps, _ = update(
        models, method, b, nll=nll, also=MEANINGLESS, aggregation=aggregation, micro_batch_tokens=budget,
        zero_stage=zero_stage,
    )  # fmt: skip
    loss = plain(model, reference, b, method, 0.4, nll, aggregation)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert result["loss"] == pytest.approx(loss.item(), abs=1e-10)
    assert len(steps) == 1
    for (name, _), grad in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(steps[0][name], grad, atol=1e-10, rtol=0, msg=name)
    assert math.isnan(result["kl"]) and math.isnan(result["mismatch_mean"]) and result["kept_rate"] == 1.0


def test_accuracy_and_margin_of_pairs(models):
    model, reference = models
    b = batch("dpo")
    result, _, _ = update(models, "dpo", b)
    ratio = (logps(model, b) - logps(reference, b)).detach()
    margin = 0.4 * (ratio[0::2] - ratio[1::2])
    assert result["pair_margin"] == pytest.approx(float(margin.mean()), abs=1e-10)
    assert result["pair_accuracy"] == float((margin > 0).double().mean()) and 0 < result["pair_accuracy"] < 1
    assert "pair_margin" not in update(models, "sft", batch("sft"))[0]


def test_at_the_reference_dpo_is_log_two(models):
    model, _ = models
    result, _, _ = update((model, copy.deepcopy(model)), "dpo", batch("dpo"), nll=0.0)
    assert result["loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert result["pair_accuracy"] == 0.0 and result["pair_margin"] == 0.0


def test_the_order_of_pairs_does_not_matter(models):
    b = batch("scpo")
    rows = [6, 7, 2, 3, 0, 1, 4, 5]
    _, (one,), _ = update(models, "scpo", b)
    _, (other,), _ = update(models, "scpo", b.take(rows))
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]  # within a pair, the sign tells the chosen one
    _, (third,), _ = update(models, "scpo", b.take(swapped))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-12, rtol=0)
        torch.testing.assert_close(one[name], third[name], atol=1e-12, rtol=0)


def test_scpo_with_equal_weights_is_dpo(models):
    b = batch("scpo")
    equal = replace(b, rewards=np.sign(b.rewards))
    _, (one,), _ = update(models, "scpo", equal)
    _, (other,), _ = update(models, "dpo", b)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("row", [1, 4])
def test_sft_on_one_response_is_the_cross_entropy_of_transformers(models, row):
    """Transformers computes it in single precision, whatever the model's precision."""
    model, _ = models
    b = batch("sft").take([row])
    result, (found,), _ = update(models, "sft", b)
    ids = torch.tensor([[*b.prompts[0], *b.responses[0].tolist()]])
    labels = ids.clone()
    labels[0, : len(b.prompts[0])] = -100
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    assert result["loss"] == pytest.approx(loss.item(), abs=1e-6)
    for (name, _), grad in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("method", ["sft", "dpo", "scpo"])
def test_steps_lower_the_loss(models, method):
    b = batch(method)
    pair = models
    losses = []
    for _ in range(4):
        result, _, model = update(pair, method, b)
        losses.append(result["loss"])
        pair = model, models[1]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1] + 1e-3
