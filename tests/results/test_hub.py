"""`srt export --format hub`: folders that the hub's own libraries read."""

from __future__ import annotations

from pathlib import Path

import pytest

from srt.common.errors import SrtError
from srt.results import Results
from srt.results.hub import export


def test_the_folders_are_read_by_the_libraries_of_the_hub(micro_run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard, ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = Results(micro_run / "results/micro")
    model, rollouts = export(results, "gt-s1/step-4", "tests", tmp_path / "out")
    assert model == tmp_path / "out/gt-s1__step-4/model" and not (model / "srt.json").exists()
    assert AutoModelForCausalLM.from_pretrained(model).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(model)("1 + 1")["input_ids"]
    card = ModelCard.load(model / "README.md")
    assert card.data.license == "other" and card.data.library_name == "transformers"
    rate = results.groups("gt-s1/step-4", "tests")["pass_rate"].mean()
    assert f"| sums_test | avg@n | {rate:.3f} | " in card.text and "Reward `ground_truth`" in card.text
    assert '"learning_rate": 0.001' in card.text
    assert DatasetCard.load(rollouts / "README.md").data.license == "other"
    rows = load_dataset(str(rollouts), "tests", split="test", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 12 * 8 and {"problem", "response", "correct"} <= set(rows.column_names)


def test_a_pruned_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SrtError, match="step-2/model is not there, so it cannot be exported: make it with snakemake"):
        export(Results(tmp_path), "gt-s1/step-2", "tests", tmp_path / "out")
