"""From a preset's keys to the gradient of their loss, and the settings that are refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from srt.config.explain import first_problem
from srt.config.train import PRESETS, Train
from srt.objective.advantages import advantages
from srt.objective.kl import kl_per_token, masked_sum
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights
from support.golden_batch import BETA, GROUP, LENGTHS, MASK, OLD, REF, REWARD, near, padded


def token_gradient(**keys: object) -> torch.Tensor:
    """d loss / d log-prob [4, 4] on the golden batch under these keys of `train`, strictly on-policy."""
    train = Train.model_validate({"kl_coefficient": BETA, "micro_batch_sequences": 2, **keys}).resolved()
    logprobs, ref = torch.nan_to_num(padded(OLD)).requires_grad_(), padded(REF)
    scores = REWARD
    if train.kl_placement == "reward":
        kl = kl_per_token(padded(OLD), ref, train.kl_estimator, train.kl_clamp)
        scores = REWARD - train.kl_coefficient * masked_sum(kl, MASK)
    loss = policy_loss(
        logprobs,
        logprobs.detach(),
        advantages(scores, GROUP, train.advantage),
        sequence_weights(LENGTHS, train.aggregation, micro_batch=train.micro_batch_sequences),
        MASK,
        LossOptions(
            clip=train.clip,
            ratio=train.ratio,
            kl_coefficient=train.kl_coefficient if train.kl_placement == "loss" else 0.0,
            kl_estimator=train.kl_estimator,
            kl_clamp=train.kl_clamp,
        ),
        ref=ref,
    )
    return torch.autograd.grad(loss, logprobs)[0]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"preset": "clean"}, [-0.061363, 0.060509, 0.062064, -0.061210]),
        ({"preset": "authors"}, [-0.067499, 0.066560, 0.056892, -0.056109]),
        ({"preset": "trl"}, [-0.161667, 0.165000, 0.153333, -0.156667]),
        ({"preset": "clean", "aggregation": "sequence_mean"}, [-0.056250, 0.083200, 0.042669, -0.084164]),
    ],
)
def test_presets_have_the_golden_gradients(keys, expected):
    found = token_gradient(**keys)
    for i, value in enumerate(expected):
        near(found[i, : LENGTHS[i]], [value] * int(LENGTHS[i]))


def test_ttrl_has_the_gradient_of_grpo_with_a_kl_in_the_loss():
    """By hand: A = (R - 1/2) / std, std = sqrt(1/3); per token -(A - beta (1 - e^d)) / 11, since dk3/dl = 1 - e^d."""
    found = token_gradient(preset="ttrl")
    std = (4 * 0.25 / 3) ** 0.5
    d = torch.nan_to_num(padded(REF) - padded(OLD))
    a = torch.tensor([0.5, -0.5, -0.5, 0.5], dtype=torch.float64)[:, None] / (std + 1e-6)
    torch.testing.assert_close(found, torch.where(MASK, -(a - BETA * (1 - d.exp())) / 11, 0.0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_settings_are_one_spec(preset):
    """Spelling out a value that the preset or a default already sets changes nothing."""
    full = Train(preset=preset).resolved()
    assert Train.model_validate(full.model_dump()).resolved() == full == full.resolved()
    assert full.rollouts_trained == 32 and full.rollouts_per_prompt == (64 if preset == "ttrl" else 32)
    missing = {k for k, v in full.model_dump().items() if v is None}
    assert missing <= {
        "clip", "clip_high", "kl_clamp", "importance_cap", "sync_tolerance", "label_share", "overlong_cache",
        "schedule_steps",
    }  # fmt: skip


def test_all_responses_are_trained_on_unless_told_otherwise():
    assert Train(rollouts_per_prompt=8).resolved().rollouts_trained == 8
    assert Train(rollouts_per_prompt=8, rollouts_trained=4).resolved().rollouts_trained == 4


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"rollouts_per_prompt": 8, "rollouts_trained": 9}, "rollouts_trained (9) is above rollouts_per_prompt (8): "),
        (
            {"preset": "ttrl", "rollouts_per_prompt": 8},
            "rollouts_trained (32) is above rollouts_per_prompt (8): set it",
        ),
        ({"iterations": 2}, "iterations (2) needs clip: set clip (PPO: 0.2) or iterations to 1"),
        ({"preset": "trl", "importance_cap": 2}, "importance_cap weights tokens, but ratio is sequence: set ratio to"),
        (
            {"ratio": "gspo", "importance_cap": 2},
            "importance_cap weights tokens, but ratio is gspo: set ratio to token",
        ),
        ({"schedule_steps": 9}, "schedule_steps (9) has no effect if schedule is constant: set schedule to linear or"),
        (
            {"overlong_cache": 9, "max_new_tokens": 8},
            "overlong_cache (9) is above max_new_tokens (8): set it to a part",
        ),
        ({"overlong_cache": 0}, "overlong_cache: must be greater than 0, not 0"),
        ({"warmup_steps": -1}, "warmup_steps: must be at least 0, not -1"),
        ({"schedule": "cosin"}, "schedule: unknown value 'cosin' (did you mean 'cosine'?)"),
        ({"clip_high": 0.28}, "clip_high (0.28) needs clip: set clip (DAPO: 0.2) or remove clip_high"),
        (
            {"kl_placement": "loss", "kl_estimator": "k1"},
            "kl_estimator k1 in the loss has a mean gradient of zero: set",
        ),
        ({"advantage": "reinforce"}, "advantage: unknown value 'reinforce' (known: rloo, group_std)"),
        ({"preset": "verl"}, "preset: unknown value 'verl'"),
        ({"rollouts_trained": 1}, "rollouts_trained: must be at least 2, not 1"),
        ({"clip": 1.0}, "clip: must be less than 1, not 1.0"),
        ({"importance_cap": 0.5}, "importance_cap: must be at least 1, not 0.5"),
        ({"majority_threshold": 1.5}, "majority_threshold: must be at most 1, not 1.5"),
        ({"iterations": 0}, "iterations: must be greater than 0, not 0"),
        ({"sync_tolerance": 0}, "sync_tolerance: must be greater than 0, not 0"),
        ({"zero_stage": 4}, "zero_stage: unknown value 4"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: unknown value true (known: none, selective, full)"),
        ({"gradient_checkpointing": "some"}, "gradient_checkpointing: unknown value 'some'"),
        ({"skip_unanimous": "maybe"}, "skip_unanimous: must be true or false, not 'maybe'"),
    ],
)
def test_refused_in_one_sentence(keys, sentence):
    with pytest.raises(ValidationError) as refused:
        Train.model_validate(keys)
    text = str(first_problem(Train, refused.value))
    assert text.startswith(sentence) and "\n" not in text, text


@pytest.mark.parametrize(
    "keys",
    [
        {"preset": "authors", "iterations": 4},  # the clip range comes from the preset
        {"iterations": 2, "clip": 0.2, "zero_stage": 3},
        {"preset": "authors", "iterations": 4, "clip_high": 0.28},  # above the clip range of the preset
        {"iterations": 2, "clip": 0.0003, "clip_high": 0.0004, "ratio": "gspo", "aggregation": "sequence_mean"},
        {"importance_cap": 2.0, "iterations": 2, "clip": 0.2},
        {"kl_placement": "loss", "kl_estimator": "k1", "kl_coefficient": 0},
        {"preset": "ttrl", "rollouts_per_prompt": 8, "rollouts_trained": 4},
        *({"skip_unanimous": True, "advantage": name} for name in ("rloo", "group_std")),
    ],
)
def test_accepted(keys):
    Train.model_validate(keys)
