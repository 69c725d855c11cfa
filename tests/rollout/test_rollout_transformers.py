"""The transformers engine: exact log-probs, greedy = model.generate, stateless seeds, the model left as it was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from srt.data.prompts import render_all
from srt.models.checkpoint import load_model
from srt.rollout import LENGTH, STOP, Rollout, Sampling, continuous_batching, sample_key
from srt.rollout.kv_cache import ColumnLayer
from srt.rollout.token_sampling import draw_tokens, uniforms
from srt.rollout.transformers_engine import TransformersEngine
from srt.training.training_set import read_training_set

VOCABULARY, EOS, OTHER_EOS, PAD = 40, 3, 4, 0
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [20], [8, 8]]
KEYS = ["a", "b", "c", "d"]


def make_model(seed: int = 0, peaked: float = 0.15) -> Qwen2ForCausalLM:
    """A random Qwen2 with grouped queries; `peaked` spreads its logits."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=peaked,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD, dtype="float32",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def drawn(model) -> list[list[Rollout]]:
    return TransformersEngine(model, [EOS, OTHER_EOS]).generate(
        PROMPTS, KEYS, Sampling(n=16, max_new_tokens=12, seed=7)
    )


def distribution(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Log-probs after temperature and nucleus, written for one row at a time: float64 [T, V]."""
    rows = []
    for row in logits.double() / temperature:
        p = row.softmax(-1).tolist()
        kept, mass = set(), 0.0
        for token in sorted(range(len(p)), key=lambda i: -p[i]):
            if top_p < 1 and mass >= top_p:
                break
            kept.add(token)
            mass += p[token]
        rows.append([math.log(x / mass) if i in kept and x > 0 else -math.inf for i, x in enumerate(p)])
    return torch.tensor(rows)


def full_forward(model, prompt: list[int], tokens: np.ndarray) -> torch.Tensor:
    """Logits [T, V] that predict the response, from one unpadded forward pass without a cache."""
    ids = torch.tensor([[*prompt, *tokens.tolist()]])
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]


def same(a: Rollout, b: Rollout) -> bool:
    return a.token_ids.tolist() == b.token_ids.tolist() and a.finish_reason == b.finish_reason


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 1.0), (1.0, 0.7), (0.8, 0.9)])
def test_logprobs_are_those_of_a_full_forward(model, temperature, top_p):
    """Left padding, prompts of 1 to 11 tokens, shared prefill, finished rows: none may change a log-prob."""
    sampling = Sampling(n=12, temperature=temperature, top_p=top_p, max_new_tokens=14, seed=3)
    groups = TransformersEngine(model, [EOS]).generate(PROMPTS, KEYS, sampling)
    assert len({len(r.token_ids) for g in groups for r in g}) > 3  # rows did end at different times
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for r in group:
            expected = distribution(full_forward(model, prompt, r.token_ids), temperature, top_p)
            expected = expected[torch.arange(len(r.token_ids)), torch.from_numpy(r.token_ids).long()]
            np.testing.assert_allclose(r.logprobs, expected.numpy(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_same_of_a_trained_model(tiny_base: Path, sums: Path):
    """With the tiny base's own tokenizer, prompts and end token."""
    model, tokenizer, eos = load_model(tiny_base, "float32")
    data, _ = read_training_set(sums, "majority")
    prompts, _ = render_all(tokenizer, data.ids, data.problems, "", 40)
    groups = TransformersEngine(model, eos).generate(prompts[:3], data.ids[:3], Sampling(n=8, max_new_tokens=24))
    assert sum(r.finish_reason == STOP for g in groups for r in g) > 4
    for prompt, group in zip(prompts, groups, strict=False):
        for r in group:
            logp = full_forward(model, prompt, r.token_ids).log_softmax(-1)
            logp = logp[torch.arange(len(r.token_ids)), torch.from_numpy(r.token_ids).long()]
            np.testing.assert_allclose(r.logprobs, logp.numpy(), atol=1e-5, rtol=0)


def test_greedy_is_model_generate(model):
    groups = TransformersEngine(model, [EOS]).generate(PROMPTS, KEYS, Sampling(n=2, temperature=0.0, max_new_tokens=20))
    config = GenerationConfig(do_sample=False, max_new_tokens=20, eos_token_id=EOS, pad_token_id=PAD)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        expected = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        for r in group:
            assert r.token_ids.tolist() == expected
            assert (r.logprobs == 0).all()  # greedy has probability 1


def test_shapes_types_end_tokens_and_reasons(drawn):
    assert [len(group) for group in drawn] == [16] * len(PROMPTS)
    reasons = set()
    for r in (r for group in drawn for r in group):
        tokens = r.token_ids.tolist()
        assert r.token_ids.dtype == np.int32 and r.logprobs.dtype == np.float32 and len(r.logprobs) == len(tokens)
        assert 1 <= len(tokens) <= 12 and np.isfinite(r.logprobs).all() and (r.logprobs <= 0).all()
        ends = [t in (EOS, OTHER_EOS) for t in tokens]
        if r.finish_reason == STOP:
            assert ends[-1] and sum(ends) == 1  # the end token is included, and nothing after it
        else:
            assert r.finish_reason == LENGTH and len(tokens) == 12 and not any(ends)
        reasons.add((r.finish_reason, tokens[-1] if ends[-1] else None))
    assert reasons == {(STOP, EOS), (STOP, OTHER_EOS), (LENGTH, None)}


def test_an_end_token_in_the_last_place_is_a_stop(model):
    """A response that ends in exactly max_new_tokens was not truncated."""
    long = TransformersEngine(model, [EOS]).generate(PROMPTS, KEYS, Sampling(n=16, max_new_tokens=12, seed=7))
    at = 6
    short = TransformersEngine(model, [EOS]).generate(PROMPTS, KEYS, Sampling(n=16, max_new_tokens=at, seed=7))
    ended_there = 0
    for a, b in zip((r for g in long for r in g), (r for g in short for r in g), strict=True):
        assert b.token_ids.tolist() == a.token_ids[:at].tolist()  # the limit does not change what is drawn
        assert b.finish_reason == (STOP if len(a.token_ids) <= at and a.finish_reason == STOP else LENGTH)
        ended_there += len(a.token_ids) == at and a.finish_reason == STOP
    assert ended_there


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_batch(model, drawn):
    """Alone, in another order, with another n or a smaller batch: the same tokens, and log-probs up to rounding."""
    engine = TransformersEngine(model, [EOS, OTHER_EOS])
    sampling = Sampling(n=16, max_new_tokens=12, seed=7)
    for p, (prompt, key) in enumerate(zip(PROMPTS, KEYS, strict=True)):
        alone = engine.generate([prompt], [key], sampling)[0]
        fewer = engine.generate([prompt], [key], Sampling(n=3, max_new_tokens=12, seed=7))[0]
        assert all(map(same, alone, drawn[p])) and all(map(same, fewer, drawn[p][:3]))
        for a, b in zip(alone, drawn[p], strict=True):  # a matrix product of another shape sums in another order
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    backwards = engine.generate(PROMPTS[::-1], KEYS[::-1], sampling)[::-1]
    assert all(same(a, b) for g, h in zip(backwards, drawn, strict=True) for a, b in zip(g, h, strict=True))
    for max_rows in (1, 33):
        split = TransformersEngine(model, [EOS, OTHER_EOS], max_rows=max_rows).generate(PROMPTS, KEYS, sampling)
        assert all(same(a, b) for g, h in zip(split, drawn, strict=True) for a, b in zip(g, h, strict=True))


def test_seeds_repeat_and_differ(model, drawn):
    engine = TransformersEngine(model, [EOS, OTHER_EOS])
    again = engine.generate(PROMPTS, KEYS, Sampling(n=16, max_new_tokens=12, seed=7))
    for a, b in zip((r for g in again for r in g), (r for g in drawn for r in g), strict=True):
        assert same(a, b) and a.logprobs.tobytes() == b.logprobs.tobytes()
    other = engine.generate(PROMPTS, KEYS, Sampling(n=16, max_new_tokens=12, seed=8))
    renamed = engine.generate(PROMPTS, ["e", "f", "g", "h"], Sampling(n=16, max_new_tokens=12, seed=7))
    for groups in (other, renamed):
        assert not any(all(map(same, g, h)) for g, h in zip(groups, drawn, strict=True))
    assert all(len({tuple(r.token_ids.tolist()) for r in group}) > 8 for group in drawn)  # samples differ


def test_seed_keys_are_distinct_and_fixed():
    """Every result depends on these keys: another hash would change all results."""
    keys = {sample_key(s, k, i) for s in range(20) for k in ("a", "b", "0/a") for i in range(40)}
    assert len(keys) == 20 * 3 * 40
    assert sample_key(1, "12", 3) != sample_key(11, "2", 3) != sample_key(1, "1", 23)
    assert sample_key(0, "a", 0) == 12932143664753956332
    np.testing.assert_array_equal(uniforms(np.array([5], np.uint64), 3), uniforms(np.array([5], np.uint64), 9)[:, :3])


def test_uniforms_are_uniform_and_independent():
    u = uniforms(np.array([sample_key(0, "p", i) for i in range(4000)], np.uint64), 16)
    assert u.dtype == np.float64 and u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=64, range=(0, 1))[0]
    chi2 = ((counts - u.size / 64) ** 2 / (u.size / 64)).sum()
    assert chi2 < 63 + 4 * math.sqrt(2 * 63)
    correlation = np.corrcoef(u.T) - np.eye(16)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8)])
def test_sampled_tokens_follow_the_softmax(temperature, top_p):
    """Chi-square of 4,000 first tokens against the model's own distribution; the fixed seed fixes the statistic."""
    model = make_model(peaked=0.08)
    sampling = Sampling(n=4000, temperature=temperature, top_p=top_p, max_new_tokens=1, seed=11)
    group = TransformersEngine(model, [EOS], max_rows=4000).generate([PROMPTS[0]], ["a"], sampling)[0]
    logits = full_forward(model, PROMPTS[0], np.array([EOS]))
    expected = distribution(logits, temperature, top_p)[0].exp().numpy() * sampling.n
    counts = np.bincount([int(r.token_ids[0]) for r in group], minlength=VOCABULARY)
    assert (counts[expected == 0] == 0).all()
    assert (expected > 0).sum() == (VOCABULARY if top_p == 1 else (counts > 0).sum())
    rare = expected < 5  # rare tokens are pooled, as the chi-square approximation requires
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    chi2 = float(((observed - wanted) ** 2 / wanted).sum())
    assert freedom > 8 and chi2 < freedom + 4 * math.sqrt(2 * freedom)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(2, 50), st.sampled_from([0.3, 1.0, 2.0]), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(0, 2**31)
)
def test_no_uniform_number_can_draw_an_impossible_token(size, temperature, top_p, seed):
    """At both ends of [0, 1): 1 - 2^-53 is 1 in float32, where the inverse distribution function would overflow."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator)
    logits[torch.rand(size, generator=generator) < 0.3] = -1000.0  # probability 0 in float32
    logits[-1] = -1000.0
    logits[int(torch.randint(size - 1, (1,), generator=generator))] = 1.0
    u = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-25, 1 - 2.0**-53], dtype=torch.float64)
    tokens, logprobs = draw_tokens(logits.expand(len(u), -1), u, temperature, top_p)
    assert torch.isfinite(logprobs).all()
    expected = distribution(logits[None], temperature, top_p)[0]
    assert torch.isfinite(expected[tokens]).all() and (tokens[1:] >= tokens[:-1]).all()


class _Calls:
    """Shapes [rows, tokens] of the model's forward passes."""

    def __init__(self, model) -> None:
        self.prefills: list[int] = []
        self.decodes: list[int] = []
        self.hook = model.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: object, args: object, kwargs: dict) -> None:
        rows = kwargs["input_ids"].shape[0]
        (self.decodes if kwargs["past_key_values"].get_seq_length() else self.prefills).append(rows)


@pytest.mark.slow
@pytest.mark.parametrize("max_rows", [1, 5, 16, 33, 63, 64])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_more_samples_than_slots(model, max_rows, top_p):
    """Never more rows than allowed, each prompt prefilled once, and the same samples as from one large batch."""
    sampling = Sampling(n=16, max_new_tokens=12, seed=7, top_p=top_p)
    one_batch = TransformersEngine(model, [EOS, OTHER_EOS]).generate(PROMPTS, KEYS, sampling)
    calls = _Calls(model)
    engine = TransformersEngine(model, [EOS, OTHER_EOS], max_rows=max_rows)
    groups = engine.generate(PROMPTS, KEYS, sampling)
    calls.hook.remove()
    assert sum(calls.prefills) == len(PROMPTS)
    assert max(calls.decodes) <= max_rows
    assert sum(calls.decodes) < 1.6 * sum(len(r.token_ids) for g in groups for r in g), "no slot stays idle"
    for a, b in zip((r for g in groups for r in g), (r for g in one_batch for r in g), strict=True):
        assert same(a, b)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
        assert (max_rows < 64) or a.logprobs.tobytes() == b.logprobs.tobytes()
    again = engine.generate(PROMPTS, KEYS, sampling)
    for a, b in zip((r for g in groups for r in g), (r for g in again for r in g), strict=True):
        assert same(a, b) and a.logprobs.tobytes() == b.logprobs.tobytes()


def test_places_are_refilled_while_others_go_on(model):
    """It takes fewer passes than one full batch after another, which is the point of refilling."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, VOCABULARY, int(rng.integers(1, 12))).tolist() for _ in range(24)]
    keys, sampling = [str(i) for i in range(24)], Sampling(n=4, max_new_tokens=40, seed=2)
    calls = _Calls(model)
    groups = TransformersEngine(model, [EOS, OTHER_EOS], max_rows=16).generate(prompts, keys, sampling)
    calls.hook.remove()
    waves = [groups[i : i + 4] for i in range(0, 24, 4)]  # 4 prompts of 4 samples fill 16 rows
    passes = sum(max(len(r.token_ids) for g in wave for r in g) for wave in waves)
    assert len(calls.decodes) + len(calls.prefills) < 0.75 * passes


def test_a_full_buffer_is_rewound(model, monkeypatch):
    """A long queue runs out of columns: those in use are moved to the front several times, and no sample changes."""
    rewinds = []
    rewind = ColumnLayer.rewind
    monkeypatch.setattr(ColumnLayer, "rewind", lambda self: (rewinds.append(self.filled), rewind(self)))
    prompts, keys = PROMPTS * 12, [f"{i}" for i in range(48)]
    groups = TransformersEngine(model, [EOS], max_rows=6).generate(
        prompts, keys, Sampling(n=2, max_new_tokens=16, seed=5)
    )
    assert len(rewinds) >= 2 * 4  # two layers
    for prompt, group in zip(prompts, groups, strict=True):
        for r in group:
            expected = full_forward(model, prompt, r.token_ids).double().log_softmax(-1)
            expected = expected[torch.arange(len(r.token_ids)), torch.from_numpy(r.token_ids).long()]
            np.testing.assert_allclose(r.logprobs, expected.numpy(), atol=1e-5, rtol=0)


def test_masked_columns_hold_no_garbage(model, monkeypatch):
    """Uninitialised memory may hold NaN, which a mask of zeros does not remove; in this mode torch fills it so."""
    sampling = Sampling(n=6, max_new_tokens=12, seed=7)
    monkeypatch.setattr(continuous_batching, "PREFILL_TOKENS", 1)  # prompts of different widths join one after another
    for max_rows in (5, 64):
        engine = TransformersEngine(model, [EOS], max_rows=max_rows)
        expected = engine.generate(PROMPTS, KEYS, sampling)
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(3).isnan().all()
            groups = engine.generate(PROMPTS, KEYS, sampling)
        finally:
            torch.use_deterministic_algorithms(False)
        for a, b in zip((r for g in groups for r in g), (r for g in expected for r in g), strict=True):
            assert same(a, b) and a.logprobs.tobytes() == b.logprobs.tobytes()


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7), n=st.integers(1, 6), limit=st.integers(1, 9),
    max_rows=st.integers(1, 20), ends=st.sampled_from([[3], [3, 4], list(range(3, 30))]),
    temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 99), one_at_a_time=st.booleans(),
)  # fmt: skip
@example(  # the longest prompt joins after a rewind that leaves fewer columns in use than it has tokens
    lengths=[1, 1, 1, 4], n=5, limit=3, max_rows=2, ends=[3], temperature=1.0, seed=0, one_at_a_time=False,
)  # fmt: skip
def test_any_queue_gives_what_each_prompt_gives_alone(
    lengths, n, limit, max_rows, ends, temperature, seed, one_at_a_time
):
    """Samples of one token, a limit of 1, one prompt, ragged prompts, prefills in several passes."""
    model = make_model()
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, VOCABULARY, length).tolist() for length in lengths]
    keys = [str(i) for i in range(len(prompts))]
    sampling = Sampling(n=n, max_new_tokens=limit, seed=seed, temperature=temperature)
    with pytest.MonkeyPatch.context() as patch:
        if one_at_a_time:
            patch.setattr(continuous_batching, "PREFILL_TOKENS", 1)
        groups = TransformersEngine(model, ends, max_rows=max_rows).generate(prompts, keys, sampling)
    for prompt, key, group in zip(prompts, keys, groups, strict=True):
        alone = TransformersEngine(model, ends).generate([prompt], [key], sampling)[0]
        assert len(group) == n and all(map(same, group, alone))
        for a, b in zip(group, alone, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)


class _Interrupting:
    """An end-token list that raises during generation, as an interrupt would."""

    def __init__(self, model) -> None:
        self.calls, self.hook = 0, model.model.norm.register_forward_pre_hook(self)

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = make_model()
    model.train(training)
    model.config.use_cache = False
    before = (model.config._attn_implementation, {k: v.clone() for k, v in model.state_dict().items()})
    logits = model(input_ids=torch.tensor([PROMPTS[1]])).logits

    def unchanged() -> bool:
        return (
            model.config._attn_implementation == before[0]
            and all(m.training == training for m in model.modules())
            and model.config.use_cache is False
            and all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())
            and torch.equal(model(input_ids=torch.tensor([PROMPTS[1]])).logits, logits)
            and all(p.grad is None and p.requires_grad for p in model.parameters())
        )

    engine = TransformersEngine(model, [EOS])
    engine.generate(PROMPTS, KEYS, Sampling(n=2, max_new_tokens=5))
    assert unchanged()
    interrupt = _Interrupting(model)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, KEYS, Sampling(n=2, max_new_tokens=5))
    interrupt.hook.remove()
    assert unchanged()
    assert len(engine.generate(PROMPTS, KEYS, Sampling(n=2, max_new_tokens=5))) == len(PROMPTS)


def test_no_prompts_no_rollouts(model):
    assert TransformersEngine(model, [EOS]).generate([], [], Sampling()) == []


def test_update_weights_copies_what_is_not_its_own():
    ours, theirs = make_model(0), make_model(1)
    engine, sampling = TransformersEngine(ours, [EOS]), Sampling(n=8, max_new_tokens=8)
    expected = TransformersEngine(theirs, [EOS]).generate(PROMPTS, KEYS, sampling)
    before = engine.generate(PROMPTS, KEYS, sampling)
    engine.update_weights((name, p.data) for name, p in theirs.named_parameters())
    after = engine.generate(PROMPTS, KEYS, sampling)
    flat = [[r for g in groups for r in g] for groups in (before, after, expected)]
    assert all(map(same, flat[1], flat[2])) and not all(map(same, flat[0], flat[2]))
    own = ours.get_input_embeddings().weight.data_ptr()
    engine.update_weights((name, p.data) for name, p in ours.named_parameters())
    assert ours.get_input_embeddings().weight.data_ptr() == own
