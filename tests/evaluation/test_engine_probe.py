"""The probe of the transformers engine: every family is sampled exactly, and a planted fault of each kind is found."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from srt.common.errors import SrtError
from srt.evaluation.engine_probe import check_sampling, check_vllm, measure_sampling, plain_samples, vllm_probe
from srt.models.probe_record import record_path, recorded
from srt.rollout import kv_cache, transformers_engine
from srt.rollout.kv_cache import ATTENTION
from srt.rollout.transformers_engine import TransformersEngine
from support.families import FAMILIES, sampling, verdicts


def folder_of(path: Path) -> Path:
    """A model folder as far as records go."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "srt.json").write_text('{"fingerprint": "a"}')
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_families_is_true(family):
    verdict, difference = sampling(FAMILIES[family].model())
    assert verdict == verdicts()[FAMILIES[family].like][1] and difference < 1e-5


def window_left_out_of_the_mask(monkeypatch, model):
    causal = kv_cache.sdpa_mask
    whole = lambda *args, mask_function=None, local_size=None, **more: causal(*args, **more)  # noqa: E731
    monkeypatch.setitem(kv_cache.AttentionMaskInterface._global_mapping, ATTENTION, whole)


def fast_attention_for_all(monkeypatch, model):
    monkeypatch.setattr(transformers_engine, "decode_attention", lambda model: ATTENTION)
    monkeypatch.setattr(kv_cache, "refuse_unknown", lambda module, arguments: None)


FAULTS = [
    ("mistral", window_left_out_of_the_mask),
    ("olmo3", window_left_out_of_the_mask), ("gemma2", fast_attention_for_all), ("gpt_oss", fast_attention_for_all),
    ("bloom", fast_attention_for_all),
]  # fmt: skip


@pytest.mark.parametrize(("family", "plant"), FAULTS)
def test_a_fault_is_found(family, plant, monkeypatch, tmp_path):
    model = FAMILIES[family].model()
    plant(monkeypatch, model)
    folder = folder_of(tmp_path / "base")
    sentence = (
        f"base: the transformers engine would not sample exactly from model type {model.config.model_type}: .*: choose"
    )
    with pytest.raises(SrtError, match=sentence):
        check_sampling(folder, model)
    assert not record_path(folder).exists()


def test_what_decoding_does_not_know_is_refused(monkeypatch):
    """The soft cap of Gemma 2 reaches an attention that has none."""
    monkeypatch.setattr(transformers_engine, "decode_attention", lambda model: ATTENTION)
    with pytest.raises(SrtError, match="Gemma2Attention passes softcap to attention, which is not known here"):
        measure_sampling(FAMILIES["gemma2"].model())


# -- vLLM: here, engines that it could be ----------------------------------------------------------------------------


class Warm(TransformersEngine):
    """Returns log-probs of another temperature with its samples."""

    def generate(self, prompts, keys, sampling):
        return super().generate(prompts, keys, replace(sampling, temperature=1.5))


def test_vllm_is_held_to_the_plain_pass(tmp_path):
    """Responses beyond the window; an engine without it, and one whose samples have log-probs of their own."""
    model, folder = FAMILIES["mistral"].model(), folder_of(tmp_path / "base")
    samples = plain_samples(model, 60)
    assert max(len(p) for p in samples.prompts) > model.config.sliding_window
    assert [len(r) for r in plain_samples(model, 9).responses] == [3] * 4
    wide = copy.deepcopy(model)
    wide.config.sliding_window = None
    for engine, sentence in (
        (TransformersEngine(wide, [-1]), "its log-probs of given responses are .* from those of the model on average"),
        (Warm(model, [-1]), "its log-probs of sampled responses are .* of the same responses without sampling"),
    ):
        with pytest.raises(SrtError, match=f"base: vLLM does not compute what model type mistral says: {sentence}"):
            check_vllm(folder, "mistral", samples, engine, "float32")
    assert not recorded(folder, vllm_probe("float32"))
    check_vllm(folder, "mistral", samples, TransformersEngine(model, [-1]), "float32")
    assert recorded(folder, vllm_probe("float32")) and not recorded(folder, vllm_probe("bfloat16"))
