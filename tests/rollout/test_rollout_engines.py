"""What the protocol `srt.rollout.RolloutEngine` promises, checked for transformers and for vLLM."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from srt.rollout import LENGTH, STOP, Sampling, tensor_checksum
from srt.rollout.sampling_bar import SamplingBar
from support.rollout_cases import (
    EOS,
    KEYS,
    PROMPTS,
    SAMPLING,
    all_same,
    engine_fixtures,
    logprobs_of,
    perturbed,
    worst,
)

setup, fresh = engine_fixtures(
    ("transformers", True), ("transformers", False), ("refilling", True), ("vllm", True), ("vllm", False)
)


def test_shapes_finish_reasons_and_end_token(fresh: tuple) -> None:
    engine, _ = fresh
    rollouts = engine.generate(PROMPTS, KEYS, SAMPLING)
    assert [len(group) for group in rollouts] == [SAMPLING.n] * len(PROMPTS)
    flat = [r for group in rollouts for r in group]
    for r in flat:
        assert r.token_ids.dtype == np.int32 and r.logprobs.dtype == np.float32
        assert len(r.token_ids) == len(r.logprobs) and np.isfinite(r.logprobs).all() and (r.logprobs <= 0).all()
        ends = np.flatnonzero(r.token_ids == EOS)
        if r.finish_reason == STOP:
            assert ends.tolist() == [len(r.token_ids) - 1], "the end token comes once, last, as part of the response"
        else:
            assert r.finish_reason == LENGTH and len(ends) == 0 and len(r.token_ids) == SAMPLING.max_new_tokens
    assert {r.finish_reason for r in flat} == {STOP, LENGTH}


def test_no_prompts_and_wrong_keys(fresh: tuple) -> None:
    engine, _ = fresh
    assert engine.generate([], [], SAMPLING) == []
    with pytest.raises(ValueError, match="3 prompts, 2 keys"):
        engine.generate(PROMPTS, KEYS[:2], SAMPLING)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_progress_counts_responses_while_they_end(
    fresh: tuple, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = fresh
    seen: list[int] = []
    monkeypatch.setattr(SamplingBar, "ended", lambda bar, responses: seen.append(responses))
    engine.generate(PROMPTS, KEYS, replace(SAMPLING, temperature=temperature))
    assert seen == sorted(seen) and seen[-1] in (len(PROMPTS) * SAMPLING.n, len(PROMPTS))
    assert temperature == 0 or len(set(seen)) > len(PROMPTS) + 1, "responses of one prompt are counted as they end"


def test_the_time_left_waits_for_an_eighth_of_the_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = SamplingBar(80, shown=True)
    bar.bar.mininterval = bar.bar.miniters = 0
    bar.ended(9)
    assert "9/80 [" in terminal.getvalue() and "<" not in terminal.getvalue()
    bar.ended(10)
    bar.close()
    assert "10/80 [" in terminal.getvalue() and "<" in terminal.getvalue()


def test_same_seed_repeats_other_seed_or_key_differs(fresh: tuple) -> None:
    engine, _ = fresh
    first = engine.generate(PROMPTS, KEYS, SAMPLING)
    torch.manual_seed(99)  # the global generator must have no effect
    assert all_same(first, engine.generate(PROMPTS, KEYS, SAMPLING))
    for other in (
        engine.generate(PROMPTS, KEYS, replace(SAMPLING, seed=8)),
        engine.generate(PROMPTS, [f"1/{key}" for key in KEYS], SAMPLING),  # as for another step of the trainer
    ):
        for left, right in zip(first, other, strict=True):
            assert sum(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(left, right, strict=True)) <= 1
    assert len({r.token_ids.tobytes() for r in first[0]}) > SAMPLING.n // 2, "samples of a prompt must differ"


def test_sample_depends_on_neither_batch_nor_n_nor_order(fresh: tuple) -> None:
    engine, _ = fresh
    first = engine.generate(PROMPTS, KEYS, SAMPLING)
    alone = engine.generate(PROMPTS[1:2], KEYS[1:2], replace(SAMPLING, n=3))[0]
    swapped = engine.generate(PROMPTS[::-1], KEYS[::-1], SAMPLING)[::-1]
    for i in range(3):
        assert np.array_equal(alone[i].token_ids, first[1][i].token_ids)
        np.testing.assert_allclose(alone[i].logprobs, first[1][i].logprobs, atol=1e-4)
    for left, right in zip(first, swapped, strict=True):
        assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(left, right, strict=True))


def test_the_limit_does_not_change_what_is_drawn(fresh: tuple) -> None:
    """Not even a limit of one token; a response that ends at exactly the limit is not truncated."""
    engine, _ = fresh
    many = replace(SAMPLING, n=150, max_new_tokens=8)
    full = engine.generate(PROMPTS, KEYS, many)
    for limit in (1, 5):
        cut = engine.generate(PROMPTS, KEYS, replace(many, max_new_tokens=limit))
        for a, b in ((a, b) for g, h in zip(full, cut, strict=True) for a, b in zip(g, h, strict=True)):
            assert b.token_ids.tolist() == a.token_ids[:limit].tolist()
            assert b.finish_reason == (STOP if a.finish_reason == STOP and len(a.token_ids) <= limit else LENGTH)
    firsts = [r for group in cut for r in group if len(r.token_ids) == 1]
    assert firsts and all(r.finish_reason == STOP for r in firsts), "some samples end with their first token"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_the_sampling_distribution(fresh: tuple, temperature: float) -> None:
    engine, model = fresh
    rollouts = engine.generate(PROMPTS, KEYS, replace(SAMPLING, temperature=temperature))
    assert worst(model, PROMPTS, rollouts, temperature) < 1e-4


def test_top_p_logprobs_are_renormalised(fresh: tuple) -> None:
    engine, model = fresh
    (group,) = engine.generate(PROMPTS[:1], KEYS[:1], replace(SAMPLING, top_p=0.3))
    raw = np.concatenate([logprobs_of(model, PROMPTS[0], r.token_ids) for r in group])
    got = np.concatenate([r.logprobs for r in group])
    assert (got >= raw - 1e-4).all() and (got - raw).max() > 0.1
    assert (raw > np.log(1e-3)).all(), "the tail is never drawn"


def test_greedy_takes_the_most_probable_token(fresh: tuple) -> None:
    engine, model = fresh
    groups = engine.generate(PROMPTS, KEYS, replace(SAMPLING, n=2, temperature=0.0))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for r in group:
            ids = torch.tensor([[*prompt, *r.token_ids.tolist()]])
            with torch.no_grad():
                best = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
            assert best.tolist() == r.token_ids.tolist()
            assert not r.logprobs.any(), "a point distribution has log-probability 0"


def test_first_tokens_follow_the_distribution(fresh: tuple) -> None:
    """Chi-square of the first token of 2,000 samples against transformers' probabilities (fixed seed)."""
    engine, model = fresh
    n = 2000
    (group,) = engine.generate(PROMPTS[:1], KEYS[:1], Sampling(n=n, max_new_tokens=1, seed=1))
    counts = np.bincount([int(r.token_ids[0]) for r in group], minlength=model.config.vocab_size)
    with torch.no_grad():
        expected = n * model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1).numpy()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = model.config.vocab_size - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees), statistic


def test_update_weights_takes_every_weight_over(fresh: tuple) -> None:
    engine, model = fresh
    for seed in (1, 2):  # twice: the second update starts from what the first one left
        other = perturbed(model, seed)
        engine.update_weights(other.named_parameters())  # without a tied head, as in a checkpoint
        rollouts = engine.generate(PROMPTS, KEYS, SAMPLING)
        assert worst(other, PROMPTS, rollouts) < 1e-4
        assert worst(model, PROMPTS, rollouts) > 1e-2


def test_checksums_are_the_trainers_by_its_names(fresh: tuple) -> None:
    """Before and after an update; the head is included where the engine keeps its own."""
    engine, model = fresh
    for current in (model, perturbed(model, 1)):
        engine.update_weights(current.named_parameters())
        held = engine.checksums()
        wanted = {name: tensor_checksum(tensor) for name, tensor in current.named_parameters()}
        head = held.pop("lm_head.weight", None)
        if head is not None:
            last = current.get_output_embeddings().weight
            assert head == pytest.approx(tensor_checksum(last), rel=1e-12)
            wanted.pop("lm_head.weight", None)
        assert set(held) == set(wanted)
        for name, sums in wanted.items():
            assert held[name] == pytest.approx(sums, rel=1e-12), name


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_score_is_that_of_a_full_forward(fresh: tuple, temperature: float) -> None:
    """For its own samples, it returns the log-probs of sampling; the next samples are unaffected."""
    engine, model = fresh
    sampling = replace(SAMPLING, temperature=temperature)
    groups = engine.generate(PROMPTS, KEYS, sampling)
    flat = [(prompt, r) for prompt, group in zip(PROMPTS, groups, strict=True) for r in group]
    scores = engine.logprobs([p for p, _ in flat], [r.token_ids for _, r in flat], temperature)
    for (prompt, r), score in zip(flat, scores, strict=True):
        assert score.dtype == np.float32 and score.shape == r.logprobs.shape
        np.testing.assert_allclose(score, logprobs_of(model, prompt, r.token_ids, temperature), atol=1e-4)
        np.testing.assert_allclose(score, r.logprobs, atol=1e-4)
    assert all_same(groups, engine.generate(PROMPTS, KEYS, sampling))
