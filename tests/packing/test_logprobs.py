"""Log-probs and entropies of responses: packed = one by one, chunked head = whole head, gradients exact."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from srt.packing import attention, logprobs
from srt.packing.activation_checkpointing import checkpoint_activations
from srt.packing.attention import PackAttention
from srt.packing.logprobs import LogitScale, head_logprobs, packed, response_logprobs
from srt.packing.pack import Pack, pack
from support.tiny_models import FAMILIES, VOCABULARY, double_norm, make_model, one_by_one

# Two groups of very unequal responses and one alone: a response of one token, one of token 0, which also pads.
SHAPES = [(5, [9, 1, 20, 4]), (12, [1, 1, 13]), (1, [6])]


def make_rows(seed: int = 0) -> tuple[list[list[int]], list[np.ndarray], list[int]]:
    rng = np.random.default_rng(seed)
    prompts, responses, group = [], [], []
    for g, (p, lengths) in enumerate(SHAPES):
        prompt = rng.integers(4, VOCABULARY, p).tolist()
        for r in lengths:
            prompts.append(prompt)
            responses.append(rng.integers(0, VOCABULARY, r).astype(np.int32))
            group.append(g)
    responses[3][:] = 0
    return prompts, responses, group


def run(model, p: Pack, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    with packed(model):
        return response_logprobs(model, p, temperature)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "LOGITS", {"cpu": 5 * VOCABULARY})  # 55 response tokens: eleven chunks
    monkeypatch.setattr(attention, "BUCKET", 2)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_pack_is_one_by_one(family, tied, temperature):
    model = make_model(tied, family=family)
    prompts, responses, group = make_rows()
    p = pack(prompts, responses, group, range(8))
    assert len(p.attention.buckets) > 3, "buckets of several lengths"
    logp, entropy = run(model, p, temperature)
    assert logp.shape == entropy.shape == p.mask.shape == (8, 20) and logp.dtype == torch.float32
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected = one_by_one(model, prompt, response, temperature)
        t = len(response)
        chosen = expected[torch.arange(t), torch.from_numpy(response).long()]
        torch.testing.assert_close(logp[i, :t], chosen, atol=1e-5, rtol=0)
        exact = torch.distributions.Categorical(logits=expected).entropy()
        torch.testing.assert_close(entropy[i, :t], exact, atol=1e-5, rtol=0)
        assert p.mask[i].tolist() == [True] * t + [False] * (20 - t)
        assert (logp[i, t:] == 0).all() and (entropy[i, t:] == 0).all()


def test_rows_do_not_see_each_other():
    """In another order, beside other rows, or with a group in two packs: the same numbers up to rounding."""
    model = make_model()
    prompts, responses, group = make_rows()
    whole, entropy = run(model, pack(prompts, responses, group, range(8)))
    for rows in ([6, 0, 3], [2], [1, 4, 5, 7]):
        part, part_entropy = run(model, pack(prompts, responses, group, rows))
        for place, i in enumerate(rows):
            t = len(responses[i])
            torch.testing.assert_close(part[place, :t], whole[i, :t], atol=1e-5, rtol=0)
            torch.testing.assert_close(part_entropy[place, :t], entropy[i, :t], atol=1e-5, rtol=0)


def test_inputs_are_not_changed():
    prompts, responses, group = make_rows()
    before = [list(p) for p in prompts], [r.copy() for r in responses]
    run(make_model(), pack(prompts, responses, group, range(8)))
    assert prompts == before[0] and all((a == b).all() for a, b in zip(responses, before[1], strict=True))


def test_a_model_without_a_pack_is_refused():
    model = make_model()
    with packed(model), pytest.raises(ValueError, match="needs packing"):
        model(input_ids=torch.tensor([[1, 2]]))


# -- gradients -----------------------------------------------------------------------------------------------------


def factors(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of each token's log-prob and entropy in row i, all different."""
    factor = torch.linspace(-1, 2, 20, dtype=torch.float64) * (1 + i)
    return factor, factor.flip(0)


def naive_gradients(model) -> dict[str, torch.Tensor]:
    """The gradient of the weighted sum, sequence by sequence, from full logits."""
    prompts, responses, _ = make_rows()
    model.zero_grad()
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected = one_by_one(model, prompt, response, 0.8)
        t = len(response)
        logp = expected[torch.arange(t), torch.from_numpy(response).long()]
        entropy = -(expected.exp() * expected).sum(-1)
        (logp @ factors(i)[0][:t] + entropy @ factors(i)[1][:t]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def gradients(model, packs: list[list[int]]) -> dict[str, torch.Tensor]:
    prompts, responses, group = make_rows()
    model.zero_grad()
    with packed(model):
        for rows in packs:
            logp, entropy = response_logprobs(model, pack(prompts, responses, group, rows, dtype=torch.float64), 0.8)
            parts = [
                logp[r, :t] @ factors(i)[0][:t] + entropy[r, :t] @ factors(i)[1][:t]
                for r, i in enumerate(rows)
                if (t := len(responses[i]))
            ]
            sum(parts).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_single_sequences(tied, monkeypatch):
    """In double precision: one pack, one pack per row, a group cut in two; no, selective and full recomputation."""
    monkeypatch.setattr(Qwen2RMSNorm, "forward", double_norm)
    model = make_model(tied, "float64")
    expected = naive_gradients(model)
    splits = [[[0, 1, 2, 3, 4, 5, 6, 7]], [[i] for i in range(8)], [[2, 0], [4, 3, 1], [7, 5, 6]]]
    found = [gradients(model, packs) for packs in splits]
    for mode in ("selective", "full"):
        other = make_model(tied, "float64")
        checkpoint_activations(other, mode)
        found.append(gradients(other, splits[2]))
    for grads in found:
        for name, grad in expected.items():
            torch.testing.assert_close(grads[name], grad, atol=1e-11, rtol=1e-11)
            assert grad.abs().max() > 0


@pytest.fixture
def beginning_alike(monkeypatch):
    """The rows of `make_rows`, all of whose prompts begin with the same seven tokens."""
    rows = make_rows

    def with_beginning(seed: int = 0) -> tuple[list[list[int]], list[np.ndarray], list[int]]:
        prompts, responses, group = rows(seed)
        return [[*range(5, 12), *prompt] for prompt in prompts], responses, group

    monkeypatch.setitem(globals(), "make_rows", with_beginning)
    monkeypatch.setitem(globals(), "pack", functools.partial(pack, least_prefix=7))


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_gradients_are_those_of_whole_prompts_that_begin_alike(on_a_gpu, monkeypatch, as_on_a_gpu, beginning_alike):
    """What all prompts of a pack begin with is computed once; in double precision, also as a GPU gets it."""
    monkeypatch.setattr(Qwen2RMSNorm, "forward", double_norm)
    model = make_model(True, "float64")
    expected = naive_gradients(model)
    prompts, responses, group = make_rows()
    p = pack(prompts, responses, group, range(8))
    assert p.attention.layout.prefix == 7 and len(p.ids) == 7 + 5 + 12 + 1 + sum(len(r) - 1 for r in responses)
    if on_a_gpu:
        as_on_a_gpu(kernel)
    for packs in ([[0, 1, 2, 3, 4, 5, 6, 7]], [[2, 0], [4, 3, 1], [7, 5, 6]]):
        for name, grad in gradients(model, packs).items():
            torch.testing.assert_close(grad, expected[name], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("window", [3, 9, 40])
def test_a_window_is_the_same_over_a_common_beginning(window, monkeypatch, as_on_a_gpu, beginning_alike):
    """Windows of a Mistral-like layer end within the response, within the prompt, and before the row."""
    model = make_model()
    for layer in model.model.layers:
        layer.self_attn.sliding_window = window
    prompts, responses, group = make_rows()
    shared = pack(prompts, responses, group, range(8))
    apart, _ = run(model, pack(prompts, responses, group, range(8), least_prefix=100))
    found, _ = run(model, shared)
    torch.testing.assert_close(found, apart, atol=1e-5, rtol=0)
    as_on_a_gpu(kernel)
    found, _ = run(model, pack(prompts, responses, group, range(8)))
    torch.testing.assert_close(found, apart, atol=1e-5, rtol=0)


def kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """As torch.nn.attention.varlen.varlen_attn is documented: sequences in a row, masks from the lower right."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and len(cu_seq_q) == len(cu_seq_k)
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key)), "every token is in a sequence"
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert enable_gqa == (query.shape[1] != key.shape[1]) and window_size[1] == 0
    parts = []
    for q, k, v in zip(*(x.split(c.diff().tolist()) for x, c in
                         ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k))), strict=True):  # fmt: skip
        place = torch.arange(len(q))[:, None] + len(k) - len(q)  # the last query sees the last key
        far = place - torch.arange(len(k))
        seen = (far >= 0) & ((far <= window_size[0]) | (window_size[0] == -1))
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(0, 1) for x in (k, v))
        parts.append(torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k[None], v[None], attn_mask=seen, scale=scale)[0].transpose(0, 1))  # fmt: skip
    return torch.cat(parts)


def ungrouped_kernel(*tensors: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Any:
    """The same as in torch 2.11, which has no `enable_gqa`."""
    shared = tensors[0].shape[1] != tensors[1].shape[1]
    return kernel(*tensors, scale=scale, window_size=window_size, enable_gqa=shared)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Packs take the way of a GPU, with the kernel as it is documented; the fixture counts its calls."""
    calls: list[str] = []

    def install(function: Any) -> list[str]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
            calls.append(function.__name__)
            return function(*args, **kwargs)

        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", counted)
        whole = PackAttention.__init__

        def with_arguments(self: PackAttention, *args: Any) -> None:
            whole(self, *args)
            self.varlen = attention._varlen(self.layout, "cpu")

        monkeypatch.setattr(PackAttention, "__init__", with_arguments)
        return calls

    return install


@pytest.mark.parametrize("function", [kernel, ungrouped_kernel])
def test_what_a_gpus_kernel_is_given_makes_the_same_gradients(function, monkeypatch, as_on_a_gpu):
    """Grouped queries, shared prompts, one-token responses (no query), a group over two packs; double precision."""
    monkeypatch.setattr(Qwen2RMSNorm, "forward", double_norm)
    model = make_model(True, "float64")
    expected, calls = naive_gradients(model), as_on_a_gpu(function)
    for packs in ([[0, 1, 2, 3, 4, 5, 6, 7]], [[2, 0], [4, 3, 1], [7, 5, 6]], [[1], [0, 2, 3], [4, 5], [6, 7]]):
        before = len(calls)
        for name, grad in gradients(model, packs).items():
            torch.testing.assert_close(grad, expected[name], atol=1e-11, rtol=1e-11)
        assert len(calls) - before == 2 * len(packs), "each layer of each pack"


@pytest.mark.parametrize("window", [3, 7, 40])
def test_a_gpus_kernel_is_given_the_window(window, as_on_a_gpu):
    """The window of a Mistral-like layer counts the query's own token."""
    model = make_model()
    prompts, responses, group = make_rows()
    whole, _ = run(model, pack(prompts, responses, group, range(8)))
    for layer in model.model.layers:
        layer.self_attn.sliding_window = window
    wanted, _ = run(model, pack(prompts, responses, group, range(8)))
    assert torch.allclose(wanted, whole) == (window == 40), "40 is longer than any row"
    calls = as_on_a_gpu(kernel)
    found, _ = run(model, pack(prompts, responses, group, range(8)))
    assert calls and torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("bias", "logits"), [(True, LogitScale()), (False, LogitScale()), (True, LogitScale(0.5)), (True, LogitScale(3, 2))]
)
def test_head_gradients_are_right_to_double_precision(bias, logits):
    """Finite differences of log-probs and entropies by hidden states, weight and bias."""
    torch.manual_seed(1)
    head = torch.nn.Linear(4, 7, bias=bias, dtype=torch.float64)
    logprobs.LOGITS["cpu"] = 2 * 7
    token = torch.tensor([1, 6, 0, 3, 3])
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    parameters = list(head.parameters())

    def both(hidden: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            for own, value in zip(parameters, given, strict=True):
                own.copy_(value)
        holder = torch.nn.Module()
        holder.weight, holder.bias = (torch.nn.Parameter(p.detach()) for p in given) if bias else (None, None)
        if not bias:
            holder.weight = torch.nn.Parameter(given[0].detach())
        return logprobs._HeadFunction.apply(hidden, given[0], given[1] if bias else None, token, 0.9, holder, logits)

    z = hidden @ parameters[0].T + (parameters[1] if bias else 0.0)
    z = z * logits.scale if logits.cap is None else logits.cap * torch.tanh(z * logits.scale / logits.cap)
    expected = (z / 0.9).log_softmax(-1)[torch.arange(5), token]
    torch.testing.assert_close(both(hidden, *parameters)[0], expected)
    inputs = [hidden, *(p.detach().clone().requires_grad_() for p in parameters)]
    assert torch.autograd.gradcheck(both, inputs)


def test_only_the_log_probs_or_only_the_entropies():
    """Either may be unused; the gradient is that of the other alone."""
    torch.manual_seed(2)
    head, token = torch.nn.Linear(4, 7, bias=False), torch.tensor([1, 6, 0])
    hidden = torch.randn(3, 4, requires_grad=True)
    for which in (0, 1):
        whole = (hidden @ head.weight.T).log_softmax(-1)
        exact = whole[torch.arange(3), token] if which == 0 else -(whole.exp() * whole).sum(-1)
        expected = torch.autograd.grad((exact * torch.tensor([1.0, -2.0, 3.0])).sum(), [hidden, head.weight])
        got = head_logprobs(head, hidden, token, 1.0)[which]
        actual = torch.autograd.grad((got * torch.tensor([1.0, -2.0, 3.0])).sum(), [hidden, head.weight])
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_half_precision_is_reduced_and_accumulated_in_single():
    """bfloat16 has 8 bits: weight gradients of 300 tokens, summed in it, would be off by several percent."""
    torch.manual_seed(3)
    head = torch.nn.Linear(16, VOCABULARY, bias=False).to(torch.bfloat16)
    hidden = torch.randn(300, 16).to(torch.bfloat16)
    token = torch.randint(0, VOCABULARY, (300,))
    logp, entropy = head_logprobs(head, hidden, token, 1.0)
    assert logp.dtype == entropy.dtype == torch.float32
    exact = torch.nn.functional.linear(hidden, head.weight).double().log_softmax(-1)
    torch.testing.assert_close(logp.double(), exact[torch.arange(300), token], atol=1e-5, rtol=0)
    logp.sum().backward()
    one = -exact.exp()
    one[torch.arange(300), token] += 1
    expected = one.T @ hidden.double()
    assert (head.weight.grad.double() - expected).abs().max() < 0.02 * expected.abs().max()
