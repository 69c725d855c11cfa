"""The probe of the transformers engine: every family is sampled exactly, and a planted fault of each kind is found."""

from __future__ import annotations

import pytest

from srt.common.errors import SrtError
from srt.evaluation.engine_probe import check_sampling, measure_sampling
from srt.models.probe_record import record_path
from srt.rollout import kv_cache, transformers_engine
from srt.rollout.kv_cache import ATTENTION
from support.families import FAMILIES, sampling, verdicts


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
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "srt.json").write_text('{"fingerprint": "a"}')
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
