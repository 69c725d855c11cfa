"""What the tests of the rollout engines share: a tiny random Qwen2, prompts, and the log-probs of a full forward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
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
def engine_of(name: str, model: Qwen2ForCausalLM, folder: Path, max_rows: int = 1024) -> Iterator[RolloutEngine]:
    """An engine, `transformers` or `vllm`, with a copy of the model's weights of its own."""
    if name == "vllm":
        from srt.rollout.vllm_engine import VllmEngine

        model.save_pretrained(folder)
        engine: RolloutEngine = VllmEngine(
            folder, [EOS], max_model_len=384, dtype="float32", kv_cache_gb=0.25, max_num_seqs=64
        )
    else:
        engine = TransformersEngine(copy.deepcopy(model), [EOS], max_rows=max_rows)
    yield engine
    engine.close()


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
