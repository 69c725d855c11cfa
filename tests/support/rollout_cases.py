"""What the tests of the rollout engines share: a tiny random Qwen2, prompts, and the log-probs of a full forward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from srt.rollout import Rollout, RolloutEngine, Sampling
from srt.rollout.transformers_engine import TransformersEngine

VOCABULARY, EOS = 40, 3
SAMPLING = Sampling(n=8, max_new_tokens=24, seed=7)
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]
KEYS = ["a", "b", "c"]
LONG = [int(t) for t in np.random.default_rng(0).integers(4, VOCABULARY, 300)]  # more than two blocks of vLLM's cache


def make_model(tied: bool, seed: int = 0) -> Qwen2ForCausalLM:
    """A random Qwen2 with grouped queries, biases and peaked logits, in the smallest shape that vLLM accepts."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.15,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):  # they start at 0, where no checksum could tell them apart
                tensor.normal_(0, 0.1)
    return model


@contextmanager
def engine_of(name: str, model: Qwen2ForCausalLM, folder: Path) -> Iterator[RolloutEngine]:
    """An engine with a copy of the model's weights of its own: transformers, refilling (with 7 slots only), or vllm."""
    if name == "vllm":
        from srt.rollout.vllm_engine import VllmEngine

        model.save_pretrained(folder)
        engine: RolloutEngine = VllmEngine(
            folder, [EOS], max_model_len=384, dtype="float32", kv_cache_gb=0.25, max_num_seqs=64
        )
    else:
        engine = TransformersEngine(copy.deepcopy(model), [EOS], max_rows=7 if name == "refilling" else 1024)
    yield engine
    engine.close()


def engine_fixtures(*cases: tuple[str, bool]) -> tuple[Any, Any]:
    """Two fixtures of a test module: (engine, the transformers model that it was made from; they share no tensor).

    The first is one engine per case, which is its name (`engine_of`) and whether the head is tied to the embedding. The
    second, for one test, is the same with the original weights restored.
    """

    @pytest.fixture(
        scope="module",
        params=[pytest.param(case, marks=pytest.mark.vllm if case[0] == "vllm" else ()) for case in cases],
        ids=lambda case: f"{case[0]}-{'tied' if case[1] else 'untied'}",
    )
    def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
        name, tied = request.param
        model = make_model(tied)
        with engine_of(name, model, tmp_path_factory.mktemp("model")) as engine:
            yield engine, model

    @pytest.fixture
    def fresh(setup: tuple) -> tuple:
        engine, model = setup
        engine.update_weights(model.named_parameters())
        return engine, model

    return setup, fresh


def logprobs_of(model: Qwen2ForCausalLM, prompt: list[int], tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log-softmax of given tokens under transformers, from one forward pass without a cache: float32 [T]."""
    ids = torch.tensor([[*prompt, *tokens.tolist()]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].numpy()


def worst(model: Qwen2ForCausalLM, prompts: list[list[int]], rollouts: list[list[Rollout]], t: float = 1.0) -> float:
    """Largest difference of the engine's log-probabilities from transformers'."""
    return max(
        float(np.abs(r.logprobs - logprobs_of(model, prompt, r.token_ids, t)).max())
        for prompt, group in zip(prompts, rollouts, strict=True)
        for r in group
    )


def same(left: Rollout, right: Rollout) -> bool:
    """Equal to the last bit."""
    return (
        np.array_equal(left.token_ids, right.token_ids)
        and np.array_equal(left.logprobs, right.logprobs)
        and left.finish_reason == right.finish_reason
    )


def all_same(left: list[list[Rollout]], right: list[list[Rollout]]) -> bool:
    """`same` for all rollouts of two calls."""
    return all(same(a, b) for g, h in zip(left, right, strict=True) for a, b in zip(g, h, strict=True))


def perturbed(model: Qwen2ForCausalLM, seed: int) -> Qwen2ForCausalLM:
    """The same architecture with other weights."""
    other = make_model(model.config.tie_word_embeddings, seed)
    with torch.no_grad():
        ids = torch.tensor([PROMPTS[1]])
        assert (model(input_ids=ids).logits - other(input_ids=ids).logits).abs().max() > 0.1, "must change the logits"
    return other
