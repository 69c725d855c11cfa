"""The base model from scratch: the same bytes per seed, right traces, known corruption, a lossless tokenizer."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from srt.common.errors import SrtError
from srt.common.io import read_json, sha256_file
from srt.config.models import BOXED_SUFFIX, TinyModel
from srt.data.arithmetic import exact_value
from srt.data.prompts import render, render_all
from srt.models.base_models import make
from srt.models.checkpoint import load_model
from srt.models.tiny import EOS, IGNORE, PAD, QUESTION, batch, build_tokenizer, learning_rate, problems, trace

PART = {"params": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}}
SPEC = {
    "source": "tiny", "hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 32,
    "context": 96, "steps": 6, "batch_size": 4, "threads": 1, "parts": [PART], "revision_of_code": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "m"
    make("m", SPEC, out)
    return out


def test_same_seed_same_bytes_another_seed_others(first, tmp_path):
    torch.manual_seed(99)
    random.seed(99)
    make("again", SPEC, tmp_path / "again")
    make("other", SPEC | {"seed": 1}, tmp_path / "other")
    names = sorted(p.name for p in first.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "srt.json"} <= set(names)
    assert names == sorted(p.name for p in (tmp_path / "again").iterdir())
    for name in names:
        assert sha256_file(first / name) == sha256_file(tmp_path / "again" / name), name
    assert sha256_file(first / "model.safetensors") != sha256_file(tmp_path / "other" / "model.safetensors")
    assert sha256_file(first / "tokenizer.json") == sha256_file(tmp_path / "other" / "tokenizer.json")
    files = read_json(first / "srt.json")["files"]
    assert files == {name: sha256_file(first / name) for name in names if name != "srt.json"}


def test_the_model_loads_as_any_other(first):
    model, tokenizer, eos = load_model(first, "float32")
    assert eos == [tokenizer.eos_token_id] and tokenizer.eos_token == EOS and tokenizer.pad_token == PAD
    assert model.config.model_type == "qwen2" and model.config.tie_word_embeddings and not model.training
    assert model.config.vocab_size == len(tokenizer) and model.config.max_position_embeddings == 96


# -- traces ------------------------------------------------------------------------------------------------------

EXPRESSIONS = st.builds(
    lambda first, rest: " ".join([str(first), *(x for sign, term in rest for x in (sign, str(term)))]),
    st.integers(-999, 999),
    st.lists(st.tuples(st.sampled_from("+-"), st.integers(-999, 999)), max_size=7),
)


def steps_of(text: str) -> tuple[list[tuple[int, str, int, int]], int]:
    """The steps (total, sign, term, result) of a trace and its boxed answer."""
    *steps, last = text.split("; ")
    assert last.startswith("\\boxed{") and last.endswith("}")
    parsed = []
    for step in steps:
        total, sign, term, equals, result = step.split(" ")
        assert equals == "=" and sign in "+-"
        parsed.append((int(total), sign, int(term), int(result)))
    return parsed, int(last[7:-1])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(EXPRESSIONS, st.integers(0, 2**31))
@example("7", 0)
@example("-3 - -4", 0)
def test_a_trace_without_corruption_is_right(expression, seed):
    steps, answer = steps_of(trace(expression, random.Random(seed), 0.0))
    assert answer == exact_value(expression)
    total = int(expression.split()[0])
    for before, sign, term, after in steps:
        assert before == total and after == (before + term if sign == "+" else before - term)
        total = after
    assert len(steps) == len(expression.split()) // 2


def test_a_misread_trace_adds_every_term():
    """Signs of numbers stay: only the operators are read as plus. The share of such traces is `misread`."""
    rng = random.Random(0)
    steps, answer = steps_of(trace("-3 - -4 + 5 - 2", rng, 0.0, misread=1.0))
    assert answer == -3 - 4 + 5 + 2 and {sign for _, sign, _, _ in steps} == {"+"}
    wrong = sum(steps_of(trace("9 - 4", rng, 0.0, misread=0.3))[1] == 13 for _ in range(4000))
    assert abs(wrong / 4000 - 0.3) < 0.03


@pytest.mark.parametrize("corruption", [0.1, 0.5, 1.0])
def test_the_share_of_wrong_steps_is_the_corruption(corruption):
    """Each later step uses the wrong number, so that a trace stays a chain."""
    rng, wrong, steps_seen, right_answers = random.Random(0), 0, 0, 0
    traces = 4000
    for _ in range(traces):
        terms = [rng.randint(10, 99) for _ in range(4)]
        expression = f"{terms[0]} + {terms[1]} - {terms[2]} + {terms[3]}"
        steps, answer = steps_of(trace(expression, rng, corruption))
        total = terms[0]
        for before, sign, term, after in steps:
            assert before == total
            wrong += after != (before + term if sign == "+" else before - term)
            total = after
        steps_seen += len(steps)
        assert answer == total
        right_answers += answer == exact_value(expression)
    spread = (corruption * (1 - corruption) / steps_seen) ** 0.5
    assert abs(wrong / steps_seen - corruption) <= 4 * spread
    if corruption < 1:  # errors may cancel, but rarely do
        assert abs(right_answers / traces - (1 - corruption) ** 3) < 0.1


def test_problems_are_chain_sums_of_the_mix():
    parts = [
        PART | {"weight": 3.0},
        {"params": {"min_terms": 6, "max_terms": 6, "min_digits": 1, "max_digits": 1}, "misread": 0.25},
    ]
    model = TinyModel.model_validate({k: v for k, v in SPEC.items() if k != "revision_of_code"} | {"parts": parts})
    stream = problems(model, 0)
    drawn = [next(stream) for _ in range(400)]
    long = sum(len(expression.split()) == 11 for _, expression, _ in drawn)
    assert 60 < long < 140  # a quarter of 400
    assert all(expression in question and question.startswith(QUESTION) for question, expression, _ in drawn)
    assert all((len(expression.split()) == 11) == (misread == 0.25) for _, expression, misread in drawn)
    again = problems(model, 0)
    assert [next(again) for _ in range(400)] == drawn and len(set(drawn)) > 300


@pytest.mark.parametrize(
    "params", [{"min_terms": 0}, {"min_digit": 2}, {"min_terms": 5, "max_terms": 2}, {"min_digits": "two"},
               {"min_digits": None}, {"size": 3}]
)  # fmt: skip
def test_wrong_chain_sum_params_are_a_sentence(tmp_path, params):
    spec = SPEC | {"parts": [{"params": params}]}
    with pytest.raises(SrtError, match="models: parts: chain_sum refuses these params"):
        make("m", spec, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stepz": 3}, "models: m: .*stepz"),
        ({"hidden_size": 15}, "models: m: tiny: hidden_size .*must be a multiple"),
        ({"source": "clod"}, "models: m: .*"),
        ({"steps": 0}, "models: m: .*steps"),
    ],
)
def test_a_wrong_entry_is_a_sentence(tmp_path, change: dict[str, Any], expected):
    with pytest.raises(SrtError, match=expected) as caught:
        make("m", SPEC | change, tmp_path / "m")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_learning_rate_warms_up_and_decays():
    model = TinyModel.model_validate({k: v for k, v in SPEC.items() if k != "revision_of_code"} | {"steps": 100})
    rates = [learning_rate(model, step) for step in range(100)]
    assert rates[0] == pytest.approx(model.learning_rate / 5) and rates[5] == pytest.approx(model.learning_rate)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.1 * model.learning_rate, rel=0.01)


# -- the tokenizer -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(first):
    return AutoTokenizer.from_pretrained(first)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(max_size=60))
@example("12 + 34 = 46; \\boxed{46}")
@example(" , . ' n't 's \n\n  \t")
@example("é 数 🙂 \x00")
@example(EOS)
def test_any_text_comes_back(tokenizer, text):
    """In Unicode's form NFC, without lone surrogates, which UTF-8 cannot encode."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode("utf-8"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_phrases_and_digits_are_single_tokens(tokenizer):
    def pieces(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert pieces("1234567890") == 10
    for phrase in (" + ", " - ", " = ", "; ", "\\boxed{", QUESTION, BOXED_SUFFIX.lstrip() + "\n", EOS, PAD):
        assert pieces(phrase) == 1, phrase
    assert pieces("12 + 34 = 46; \\boxed{46}") == 2 + 1 + 2 + 1 + 2 + 1 + 1 + 2 + 1


def test_batch_decode_takes_arrays_of_any_equal_lengths(tokenizer):
    """One token per response must stay one text per response."""
    import numpy as np

    eos = tokenizer.eos_token_id
    rows = [np.array([eos], np.int32), np.array([eos], np.int32)]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == ["", ""]
    five = tokenizer("5")["input_ids"][0]
    assert tokenizer.batch_decode([np.array([five, eos], np.int32)], skip_special_tokens=True) == ["5"]


def test_built_and_loaded_tokenizers_agree(tokenizer):
    built = build_tokenizer(BOXED_SUFFIX)
    for text in (f"{QUESTION}1 + 2 ={BOXED_SUFFIX}\n", "don't  stop\n\n 12.5% (é) e\u0301 \U0002f800"):
        assert built(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert render(built, "1 + 2 =", BOXED_SUFFIX) == render(tokenizer, "1 + 2 =", BOXED_SUFFIX)


def test_prompts_are_the_question_the_suffix_and_a_line_end(tokenizer):
    prompts, too_long = render_all(tokenizer, ["a", "b"], ["1 + 2 =", "x" * 50], BOXED_SUFFIX, 20)
    assert tokenizer.decode(prompts[0]) == f"1 + 2 ={BOXED_SUFFIX}\n"
    assert prompts[1] == [] and too_long == ["b"]
    exact = len(prompts[0])
    assert render_all(tokenizer, ["a"], ["1 + 2 ="], BOXED_SUFFIX, exact)[1] == []  # at most, inclusive
    with pytest.raises(SrtError, match="every one of the 1 prompts"):
        render_all(tokenizer, ["a"], ["1 + 2 ="], BOXED_SUFFIX, exact - 1)


def test_training_batches_learn_the_solution_and_the_end(tokenizer):
    rows = [(f"{QUESTION}1 + 2 =", "1 + 2 = 3; \\boxed{3}"), (f"{QUESTION}9 =", "\\boxed{9}")]
    ids, labels = batch(tokenizer, rows, BOXED_SUFFIX)
    assert ids.shape == labels.shape
    for row, (question, solution) in enumerate(rows):
        learned = labels[row] != IGNORE
        assert tokenizer.decode(labels[row][learned]) == solution + EOS
        assert (ids[row][learned] == labels[row][learned]).all()
        prompt = render(tokenizer, question, BOXED_SUFFIX)
        assert ids[row, : len(prompt)].tolist() == prompt and not learned[: len(prompt)].any()
    assert json.dumps(ids.tolist()).count(str(tokenizer.pad_token_id)) > 0
