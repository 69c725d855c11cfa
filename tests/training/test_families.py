"""Training of whole steps on families that differ from Qwen2, and refusals before anything is sampled."""

from __future__ import annotations

import pytest

from srt.common.errors import SrtError
from srt.common.io import read_parquet
from srt.models.probe_record import record_path
from srt.training.run import run_segment
from srt.training.training_set import read_training_set
from support.families import base_of
from support.specs import train_spec
from support.training import whole_run


@pytest.mark.parametrize("family", ["mistral", "gemma2", "granite", "gpt_oss"])
def test_a_step_samples_and_trains_the_same_model(family, tmp_path, tiny_base, sums):
    """Rows are longer than the window of six; trainer and engine agree, though they share no code of attention."""
    base = base_of(family, tmp_path / "base", tiny_base)
    spec = train_spec(prompts_per_step=2, rollouts_per_prompt=4, gradient_checkpointing="selective")
    data, truth = read_training_set(sums, "majority")
    run_segment(whole_run(tmp_path, base, spec, stop=1), data, truth)
    frame = read_parquet(tmp_path / "metrics.parquet").to_pandas()
    assert frame["mismatch_max"].iloc[0] < 1e-4 and frame["skipped"].iloc[0] == 0
    assert record_path(base).exists()


REFUSALS = [
    ("bloom", {}, "training would not be exact for model type bloom: its attention is its own code"),
    ("falcon", {}, "training would not be exact for model type falcon: its attention is its own code"),
    ("stablelm", {}, "training would not be exact for model type stablelm: its attention is its own code"),
    ("phi3_long", {"max_new_tokens": 25}, "its rotary embedding changes for a whole batch beyond 64 tokens"),
]


@pytest.mark.parametrize(("family", "changes", "sentence"), REFUSALS)
def test_a_family_is_refused_before_anything_is_sampled(family, changes, sentence, tmp_path, tiny_base, sums):
    base = base_of(family, tmp_path / "base", tiny_base)
    data, truth = read_training_set(sums, "majority")
    with pytest.raises(SrtError, match=f"base: {sentence}"):
        run_segment(whole_run(tmp_path, base, train_spec(**changes), stop=1), data, truth)
    assert not record_path(base).exists()
