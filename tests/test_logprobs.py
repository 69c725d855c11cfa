"""Log-probs and entropies of responses: padded = one by one, chunked head = whole head, budgets are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from srt import logprobs
from srt.logprobs import micro_batches, response_logprobs

VOCABULARY = 30


def make_model(tied: bool = True, dtype: str = "float32") -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=None, eos_token_id=3, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval().to(getattr(torch, dtype))


def make_rows(seed: int = 0) -> tuple[list[list[int]], list[np.ndarray]]:
    """Seven rows of very different lengths; a response of length 1 and one of token 0, which also pads."""
    rng = np.random.default_rng(seed)
    lengths = [(1, 1), (5, 9), (12, 1), (3, 20), (9, 4), (1, 13), (6, 6)]
    prompts = [rng.integers(4, VOCABULARY, p).tolist() for p, _ in lengths]
    responses = [rng.integers(0, VOCABULARY, r).astype(np.int32) for _, r in lengths]
    responses[4][:] = 0
    return prompts, responses


def one_by_one(model, prompt: list[int], response: np.ndarray, temperature: float) -> torch.Tensor:
    """The distributions that predict each response token: log-probs [T, V] of an unpadded pass with a full head."""
    ids = torch.tensor([[*prompt, *response.tolist()]])
    return (model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [True, False])
def test_padded_batch_is_one_by_one(monkeypatch, recompute, temperature, tied):
    monkeypatch.setattr(logprobs, "HEAD_CHUNK", 5)  # 54 response tokens: eleven chunks
    model = make_model(tied)
    prompts, responses = make_rows()
    logp, entropy, mask = response_logprobs(model, prompts, responses, temperature, recompute)
    assert logp.shape == entropy.shape == mask.shape == (7, 20) and logp.dtype == torch.float32
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected = one_by_one(model, prompt, response, temperature)
        t = len(response)
        chosen = expected[torch.arange(t), torch.from_numpy(response).long()]
        torch.testing.assert_close(logp[i, :t], chosen, atol=1e-5, rtol=0)
        exact = torch.distributions.Categorical(logits=expected).entropy()
        torch.testing.assert_close(entropy[i, :t], exact, atol=1e-5, rtol=0)
        assert mask[i].tolist() == [True] * t + [False] * (20 - t)
        assert (logp[i, t:] == 0).all() and (entropy[i, t:] == 0).all()


def test_rows_do_not_see_each_other():
    """In another order, in other company: the same numbers but for rounding."""
    model = make_model()
    prompts, responses = make_rows()
    whole, entropy, _ = response_logprobs(model, prompts, responses, 1.0)
    for rows in ([6, 0, 3], [2], [1, 4, 5]):
        part, part_entropy, _ = response_logprobs(model, [prompts[i] for i in rows], [responses[i] for i in rows], 1.0)
        for place, i in enumerate(rows):
            t = len(responses[i])
            torch.testing.assert_close(part[place, :t], whole[i, :t], atol=1e-5, rtol=0)
            torch.testing.assert_close(part_entropy[place, :t], entropy[i, :t], atol=1e-5, rtol=0)


def test_inputs_are_not_changed():
    prompts, responses = make_rows()
    before = [list(p) for p in prompts], [r.copy() for r in responses]
    response_logprobs(make_model(), prompts, responses, 1.0)
    assert prompts == before[0] and all((a == b).all() for a, b in zip(responses, before[1], strict=True))


def gradients(model, recompute: bool) -> dict[str, torch.Tensor]:
    """Gradient of a sum over log-probs and entropies in which every token counts differently."""
    model.zero_grad()
    prompts, responses = make_rows()
    logp, entropy, mask = response_logprobs(model, prompts, responses, 0.8, recompute)
    factor = torch.linspace(-1, 2, mask.numel(), dtype=logp.dtype).view_as(logp)
    (logp * factor + entropy * factor.flip(0)).masked_select(mask).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_recomputed_head_has_the_same_values_and_gradients(monkeypatch, tied):
    monkeypatch.setattr(logprobs, "HEAD_CHUNK", 5)
    model = make_model(tied, "float64")
    inputs = (*make_rows(), 0.8)
    for a, b in zip(response_logprobs(model, *inputs), response_logprobs(model, *inputs, True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    kept, recomputed = gradients(model, False), gradients(model, True)
    for name, grad in kept.items():
        torch.testing.assert_close(recomputed[name], grad, atol=1e-10, rtol=1e-10)
        assert grad.abs().max() > 0


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_right_to_double_precision(monkeypatch, recompute):
    """Finite differences through the whole of a toy model's head and last norm."""
    monkeypatch.setattr(logprobs, "HEAD_CHUNK", 2)
    model = make_model(False, "float64").requires_grad_(False)
    prompts, responses = [[5, 6], [7]], [np.array([1, 2, 3], np.int32), np.array([9], np.int32)]
    head, norm = model.lm_head, model.model.norm
    torch.manual_seed(1)
    head.bias = torch.nn.Parameter(torch.randn(VOCABULARY, dtype=torch.float64))

    def both(weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        del head.weight, head.bias, norm.weight
        head.weight, head.bias, norm.weight = weight, bias, scale
        logp, entropy, _ = response_logprobs(model, prompts, responses, 0.9, recompute)
        return logp, entropy

    inputs = [t.detach().clone().requires_grad_() for t in (head.weight, head.bias, norm.weight)]
    for module, names in ((head, ("weight", "bias")), (norm, ("weight",))):
        for name in names:
            tensor = getattr(module, name).detach().clone()
            delattr(module, name)
            setattr(module, name, tensor)
    assert torch.autograd.gradcheck(both, inputs, fast_mode=True)


def test_half_precision_logits_are_reduced_in_single():
    """bfloat16 has 8 bits: a log-softmax in it would be off by 1e-2, one of its logits in float32 is not."""
    model = make_model(False, "bfloat16")
    prompts, responses = make_rows()
    logp, entropy, _ = response_logprobs(model, prompts, responses, 1.0)
    assert logp.dtype == entropy.dtype == torch.float32
    ids = torch.tensor([[*prompts[3], *responses[3].tolist()]])
    exact = model(input_ids=ids).logits[0, 2:-1].double().log_softmax(-1)
    exact = exact[torch.arange(20), torch.from_numpy(responses[3]).long()]
    alone = response_logprobs(model, [prompts[3]], [responses[3]], 1.0)[0][0]
    torch.testing.assert_close(alone.double(), exact, atol=1e-5, rtol=0)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 400))
def test_micro_batches_cover_all_rows_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(i for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        assert rows
        padded = len(rows) * max(lengths[i] for i in rows)
        assert padded <= budget or len(rows) == 1
    longest = [max(lengths[i] for i in rows) for rows in batches]
    shortest = [min(lengths[i] for i in rows) for rows in batches]
    assert all(a >= b for a, b in zip(shortest, longest[1:], strict=False))  # like lengths together


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(60, 400))
def test_micro_batches_are_filled(lengths, budget):
    """No batch could have taken the next one's first row: the split is greedy, so there are not many of them."""
    batches = micro_batches(lengths, budget)
    for rows in batches[:-1]:
        assert (len(rows) + 1) * lengths[rows[0]] > budget
