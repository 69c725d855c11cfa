"""The probe of packs: families of models pass or are refused, and a planted fault of each kind is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from srt.common.errors import SrtError
from srt.models import probe_record
from srt.models.context import check_context, fixed_context
from srt.models.probe_record import probed
from srt.packing import attention, logprobs
from srt.training import pack_probe
from srt.training.pack_probe import check_packs, measure, problem
from support.families import FAMILIES, LONG, training, verdicts


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_families_is_true(family):
    verdict, measured = training(FAMILIES[family].model())
    assert verdict == verdicts()[FAMILIES[family].like][0]
    assert measured is None or (measured.logprob < 1e-5 and measured.gradient < 1e-5), measured


def test_the_table_has_every_family_once():
    assert list(verdicts()) == [family.like for family in FAMILIES.values()]


@pytest.mark.parametrize("family", ["stablelm", "falcon", "bloom"])
def test_attention_that_cannot_be_replaced_is_a_sentence(family):
    with pytest.raises(SrtError, match="its attention is its own code, which packed sequences cannot replace"):
        measure(FAMILIES[family].model())


# -- planted faults --------------------------------------------------------------------------------------------------


def without_window(monkeypatch):
    wide = attention.Bucket.wide
    monkeypatch.setattr(attention.Bucket, "wide", lambda self, shared, window=None: wide(self, shared))


def without_logit_scale(monkeypatch):
    monkeypatch.setattr(logprobs.LogitScale, "of", classmethod(lambda cls, config: cls()))


def without_logit_scale_in_the_gradient(monkeypatch):
    def backward(ctx, *grads):
        ctx.logits = replace(ctx.logits, scale=1.0)
        return original(ctx, *grads)

    original = logprobs._HeadFunction.backward
    monkeypatch.setattr(logprobs._HeadFunction, "backward", staticmethod(backward))


def without_cap_or_sinks(monkeypatch):
    explicit = attention._explicit
    monkeypatch.setattr(attention, "_explicit", lambda *x: explicit(*x[:5], None, None))


def without_gradient_of_keys(monkeypatch):
    sdpa = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda q, k, v, **more: sdpa(q, k.detach(), v, **more)
    )


FAULTS = [
    ("mistral", without_window), ("phi3_window", without_window), ("qwen2_window", without_window),
    ("granite", without_logit_scale), ("cohere", without_logit_scale), ("gemma2", without_logit_scale),
    ("gemma2", without_cap_or_sinks), ("gpt_oss", without_cap_or_sinks), ("qwen3_4b", without_gradient_of_keys),
    ("opt", without_gradient_of_keys),
]  # fmt: skip


@pytest.mark.parametrize(("family", "plant"), FAULTS)
def test_a_fault_is_found(family, plant, monkeypatch):
    plant(monkeypatch)
    measured = measure(FAMILIES[family].model())
    assert problem(measured) is not None, measured


def test_an_attention_of_its_own_is_found_by_measuring(monkeypatch):
    """ALiBi, where the model claims that its attention can be replaced."""
    model = FAMILIES["bloom"].model()
    model._supports_attention_backend = True
    assert "log-probs of packed sequences differ" in problem(measure(model))
    falcon = FAMILIES["falcon_alibi"].model()
    falcon._supports_attention_backend = True
    with pytest.raises(SrtError, match=r"its forward pass fails on packed sequences \("):
        measure(falcon)


def test_rows_that_depend_on_others_of_their_pack_are_found():
    """Long RoPE within the original context is exact; beyond it, the factors are those of the pack's longest row."""
    family = FAMILIES["phi3_long"]
    short = {"rope_parameters": LONG | {"original_max_position_embeddings": 16}, "original_max_position_embeddings": 16}
    measured = measure(replace(family, keys=family.keys | short).model())
    assert measured.logprob > 0.01 and "log-probs of packed" in problem(measured)
    config = family.config()
    assert fixed_context(config) == 64 and fixed_context(FAMILIES["llama31"].config()) is None
    check_context("base", config, 64)
    with pytest.raises(SrtError, match=r"base: its rotary embedding .* beyond 64 tokens, .* is 65: lower them to 64"):
        check_context("base", config, 65)


def test_what_attention_does_not_know_is_refused():
    class Alien(torch.nn.Module):
        pass

    x = torch.zeros(1, 1, 2, 4)
    for more in ({"position_bias": x}, {"dropout": 0.1}, {"is_causal": False}):
        with pytest.raises(SrtError, match=f"Alien passes {next(iter(more))} to attention, which is not known here"):
            attention._packed_attention(Alien(), x, x, x, None, packing=object(), use_cache=False, **more)


def test_half_precision_is_held_to_the_plain_pass_in_half_precision(monkeypatch):
    model = FAMILIES["qwen2"].model().to(torch.bfloat16)
    measured = measure(model)
    assert problem(measured) is None and 0 < measured.half < 2 * measured.plain_half + 0.01
    forward = logprobs.response_logprobs

    def off_in_half(model, p, temperature):
        found, entropy = forward(model, p, temperature)
        return found + 2 * measured.plain_half * (model.dtype == torch.bfloat16) + 0.01, entropy

    monkeypatch.setattr(pack_probe, "response_logprobs", off_in_half)
    assert "log-probs of packed sequences" in problem(measure(model))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama3"])
def test_dropout_is_off_while_activations_are_computed_again(family):
    entry = FAMILIES[family]
    on = {"llama3": ["attention_dropout"], "gpt2": ["attn_pdrop", "embd_pdrop", "resid_pdrop"], "opt": ["dropout"]}
    model = replace(entry, keys=entry.keys | dict.fromkeys(on[family], 0.5)).model()
    assert problem(measure(model, "full")) is None


# -- the record ------------------------------------------------------------------------------------------------------


def folder_of(path: Path, fingerprint: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "srt.json").write_text(f'{{"fingerprint": "{fingerprint}"}}')
    return path


def test_the_same_bytes_are_probed_once(tmp_path, monkeypatch):
    folder, calls = folder_of(tmp_path / "base", "a"), []

    def probe(name: str = "training", value: float = 1.0) -> dict[str, float]:
        return probed(folder, name, lambda: calls.append(name) or {"logprob": value})

    assert probe() == probe(value=2.0) == {"logprob": 1.0} and calls == ["training"]
    probe("sampling")
    probe("training")
    assert calls == ["training", "sampling"] and sorted(p.name for p in tmp_path.iterdir()) == [
        "base",
        "base.probe.json",
    ]
    folder_of(folder, "b")
    probe()
    monkeypatch.setattr(probe_record, "code_version", lambda: "another")
    probe()
    assert calls == ["training", "sampling", "training", "training"]
    (tmp_path / "base.probe.json").write_text("half a fi")
    probe()
    assert len(calls) == 5


def test_a_refused_model_has_no_record_and_says_what_differs(tmp_path, monkeypatch):
    folder, model = folder_of(tmp_path / "base", "a"), FAMILIES["mistral"].model()
    with monkeypatch.context() as patch:
        without_window(patch)
        sentence = r"base: training would not be exact for model type mistral: log-probs of packed .* nats: choose"
        with pytest.raises(SrtError, match=sentence):
            check_packs(folder, model, "none")
    assert not probe_record.record_path(folder).exists()
    check_packs(folder, model, "none")
    assert probe_record.record_path(folder).exists()


def test_a_probe_changes_neither_the_model_nor_the_random_state():
    model = FAMILIES["qwen3_4b"].model()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    config = model.config.to_dict()
    measure(model, "selective")
    assert torch.equal(torch.get_rng_state(), state) and model.config.to_dict() == config
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
