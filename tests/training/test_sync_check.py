"""The sync check against faults injected into real engines: it names the tensor, or says that all weights agree."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srt.common.errors import SrtError
from srt.rollout import TOLERANCE, Rollout, tensor_checksum
from srt.rollout.transformers_engine import TransformersEngine
from srt.training.sync_check import check_logprobs, check_weights, differing_tensors
from support.rollout_cases import KEYS, LONG, PROMPTS, SAMPLING, engine_fixtures, logprobs_of, make_model

FAULTS = [
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
    "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.k_proj.bias",
    "model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight",
    "model.layers.1.post_attention_layernorm.weight", "model.norm.weight",
]  # fmt: skip


setup, fresh = engine_fixtures(("transformers", True), ("vllm", True), ("vllm", False))


def of_a_step(model: torch.nn.Module, prompts: list[list[int]], groups: list[list[Rollout]], t: float = 1.0) -> float:
    """What the trainer compares in a step: the engine's log-probs at sampling with those of its own pass."""
    flat = [(prompt, r) for prompt, group in zip(prompts, groups, strict=True) for r in group]
    return apart([r.logprobs for _, r in flat], [logprobs_of(model, p, r.token_ids, t) for p, r in flat])


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Mean absolute difference over tokens."""
    return float(np.abs(np.concatenate(a).astype(np.float64) - np.concatenate(b)).mean())


def changed(model: torch.nn.Module, name: str, by: float) -> dict[str, torch.Tensor]:
    """The model's weights with one tensor off by `by` in its last element."""
    weights = {key: tensor.detach().clone() for key, tensor in model.named_parameters()}
    weights[name].view(-1)[-1] += by
    return weights


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_engines_in_step_pass(fresh: tuple, temperature: float) -> None:
    engine, model = fresh
    groups = engine.generate(PROMPTS, KEYS, replace(SAMPLING, temperature=temperature))
    difference = of_a_step(model, PROMPTS, groups, temperature)
    assert difference < TOLERANCE["float32"] / 100
    assert differing_tensors(engine, model.named_parameters(), "float32") == []
    check_logprobs(
        difference,
        TOLERANCE["float32"],
        engine,
        model.named_parameters(),
        (0, 0),
        dtype="float32",
        where="run a, step 1",
    )
    few = [(prompt, group[0].token_ids) for prompt, group in zip(PROMPTS, groups, strict=True)]
    for t in (temperature, temperature + 0.3):  # given responses, at any temperature
        scores = engine.logprobs([p for p, _ in few], [r for _, r in few], t)
        assert apart(scores, [logprobs_of(model, p, r, t) for p, r in few]) < TOLERANCE["float32"] / 100


@pytest.mark.parametrize("name", FAULTS)
def test_one_wrong_element_is_named(fresh: tuple, name: str) -> None:
    """In fused, packed and plain tensors; one element, of about 0.15, is off by 1e-4."""
    engine, model = fresh
    engine.update_weights(changed(model, name, 1e-4).items())
    named = differing_tensors(engine, model.named_parameters(), "float32")
    assert named[0] == name
    # a separate copy of a tied head has the same wrong element
    assert named[1:] in ([], ["lm_head.weight"]) and (not named[1:] or name == "model.embed_tokens.weight")


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.bias"])
def test_a_corrupt_layer_fails_the_step_by_name(fresh: tuple, name: str) -> None:
    engine, model = fresh
    weights = changed(model, name, 0.0)
    weights[name] += 0.3 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    engine.update_weights(weights.items())
    difference = of_a_step(model, PROMPTS, engine.generate(PROMPTS, KEYS, SAMPLING))
    with pytest.raises(SrtError) as error:
        check_logprobs(
            difference,
            TOLERANCE["float32"],
            engine,
            model.named_parameters(),
            (0, difference),
            dtype="float32",
            where="run a, step 7",
        )
    assert str(error.value) == (
        f"run a, step 7: the rollout engine's log-probs are {difference:.3g} from the trainer's on average, more than "
        f"0.001: the engine's weights are stale: 1 tensors differ, first {name}: run the same command again to resume "
        "from the last saved state; if it stops there again, set train.rollout_engine to transformers"
    )


def test_stale_weights_are_caught(fresh: tuple) -> None:
    """The trainer takes a step that the engine is not told of."""
    engine, model = fresh
    trainer = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=1e-2)
    ids = torch.tensor([PROMPTS[1] * 3])
    trainer(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    difference = of_a_step(trainer, PROMPTS, engine.generate(PROMPTS, KEYS, SAMPLING))
    first = next(iter(trainer.named_parameters()))[0]
    with pytest.raises(SrtError, match=rf"tensors differ, first {first}"):
        check_logprobs(
            difference,
            TOLERANCE["float32"],
            engine,
            trainer.named_parameters(),
            (0, 1),
            dtype="float32",
            where="a, step 2",
        )
    names = [name for name, _ in trainer.named_parameters()]
    assert [n for n in differing_tensors(engine, trainer.named_parameters(), "float32") if n != "lm_head.weight"] == [
        n for n in names if n != "lm_head.weight"
    ]
    engine.update_weights(trainer.named_parameters())
    assert of_a_step(trainer, PROMPTS, engine.generate(PROMPTS, KEYS, SAMPLING)) < TOLERANCE["float32"] / 100


def test_one_step_of_a_small_learning_rate_shows_in_the_checksums_alone(fresh: tuple) -> None:
    """Why checksums are worth two reads of the weights: at 1e-6, log-probs change by less than any tolerance."""
    engine, model = fresh
    trainer = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in trainer.parameters():
            tensor.add_(1e-6)
    groups = engine.generate(PROMPTS, KEYS, SAMPLING)
    assert of_a_step(trainer, PROMPTS, groups) < TOLERANCE["float32"]
    assert set(dict(trainer.named_parameters())) <= set(
        differing_tensors(engine, trainer.named_parameters(), "float32")
    )


def test_a_stale_prefix_cache_is_told_from_stale_weights(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the reset, a prompt of two cache blocks reuses keys and values of the old weights."""
    engine, model = fresh
    if isinstance(engine, TransformersEngine):
        pytest.skip("the transformers engine keeps no cache between calls")
    prompts, keys = [LONG], ["long"]
    engine.generate(prompts, keys, SAMPLING)
    other = make_model(model.config.tie_word_embeddings, 3)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_reset_prefix_cache", lambda: None)
        engine.update_weights(other.named_parameters())
        stale = of_a_step(other, prompts, engine.generate(prompts, keys, SAMPLING))
    assert differing_tensors(engine, other.named_parameters(), "float32") == []
    with pytest.raises(SrtError, match=r"it is how the engine computes: the weights are the same, .*\(a stale prefix"):
        check_logprobs(
            stale,
            TOLERANCE["float32"],
            engine,
            other.named_parameters(),
            (0, stale),
            dtype="float32",
            where="a, step 3",
        )
    assert of_a_step(other, prompts, engine.generate(prompts, keys, SAMPLING)) < TOLERANCE["float32"] / 100


def test_a_tied_head_left_behind_is_named(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM on a CPU packs its own copy of the head: updating only the embedding leaves the old head, with no error."""
    engine, model = fresh
    if isinstance(engine, TransformersEngine) or not model.config.tie_word_embeddings or torch.cuda.is_available():
        pytest.skip("only vLLM on a CPU with tied embeddings keeps two")
    weights = changed(model, "model.embed_tokens.weight", 0.5)
    monkeypatch.setattr(engine, "_checked", iter)
    engine.update_weights(weights.items())
    assert differing_tensors(engine, weights.items(), "float32") == ["lm_head.weight"]


def holding(weights: dict[str, torch.Tensor]) -> SimpleNamespace:
    """An engine with these weights."""
    return SimpleNamespace(checksums=lambda: {name: tensor_checksum(tensor) for name, tensor in weights.items()})


def test_weights_are_rounded_to_the_engines_precision_first() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(64, 64, generator=generator), "b": torch.randn(64, generator=generator)}
    engine = holding({name: tensor.bfloat16() for name, tensor in weights.items()})
    assert differing_tensors(engine, weights.items(), "bfloat16") == []
    assert differing_tensors(engine, weights.items(), "float32") == ["a", "b"]


def test_a_head_that_only_the_engine_has_is_the_embedding_whatever_its_name() -> None:
    """OPT calls it `model.decoder.embed_tokens.weight`."""
    weights = {"model.decoder.embed_tokens.weight": torch.arange(4.0), "b": torch.ones(4)}
    assert differing_tensors(holding(weights | {"lm_head.weight": torch.arange(4.0)}), weights.items(), "float32") == []
    assert differing_tensors(holding(weights | {"lm_head.weight": torch.zeros(4)}), weights.items(), "float32") == [
        "lm_head.weight"
    ]


def test_missing_foreign_and_broken_tensors_differ() -> None:
    weights = {"a": torch.ones(4), "b": torch.ones(4), "c": torch.ones(4), "d": torch.tensor([1.0, -1.0])}
    held = {"a": torch.ones(4), "b": torch.tensor([1, 1, 1, math.nan]), "d": torch.tensor([2.0, -2.0])}
    assert differing_tensors(holding(held | {"e": torch.ones(1)}), weights.items(), "float32") == ["b", "c", "d", "e"]


APART = "the rollout engine's log-probs are 1 from the trainer's"
BROKEN = "log-probs of the rollout engine or the trainer are not finite"
ENGINE, LAYOUT = "it is how the engine computes: ", "the model does not fit into packs: "


@pytest.mark.parametrize(
    ("value", "distances", "what", "why", "fix"),
    [
        (
            1.0,
            (1e-6, 1.0),
            APART,
            f"{ENGINE}.* the trainer is 1e-06 nats .*, the engine 1 \\(",
            "set train.*, or raise",
        ),
        (1.0, (1.0, 1e-6), APART, f"{LAYOUT}.* the trainer is 1 nats .*, the engine 1e-06", "choose another base"),
        (math.nan, (1e-6, math.nan), BROKEN, ENGINE, "set train.rollout_engine to transformers$"),
        (math.nan, (math.nan, 1e-6), BROKEN, LAYOUT, "choose another base model"),
        (math.inf, (1e-6, math.inf), BROKEN, ENGINE, "set train.rollout_engine to transformers$"),
        (
            math.nan,
            (math.nan, math.nan),
            BROKEN,
            "the model's plain forward pass is not finite",
            "run the same command",
        ),
    ],
)
def test_the_message_says_which_it_is(value: float, distances: tuple, what: str, why: str, fix: str) -> None:
    weights = {"a": torch.ones(4)}
    with pytest.raises(SrtError, match=rf"run a, step 1: {what}.*: {why}.*: {fix}"):
        check_logprobs(
            value, 0.05, holding(weights), weights.items(), distances, dtype="float32", where="run a, step 1"
        )


@pytest.mark.slow
def test_an_engine_that_holds_other_weights_is_a_sentence_with_a_fix() -> None:
    weights = {"a": torch.ones(4), "b": torch.ones(4)}
    with pytest.raises(SrtError, match=r"1 tensors differ, first b: run the same command again.*to transformers"):
        check_weights(holding(weights | {"b": torch.zeros(4)}), weights.items(), dtype="float32", where="run a, step 1")
