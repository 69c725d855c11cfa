"""`srt export --format hub`: folders that the hub's own libraries read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from srt.cli.__main__ import dispatch
from srt.common.errors import SrtError
from srt.results import Results
from srt.results.hub import export, push


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


def test_both_folders_are_pushed_to_private_repositories(micro_run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    sent = []

    class Api:
        def create_repo(self, name, **options):
            sent.append(("create", name, options))

        def upload_folder(self, repo_id, repo_type, folder_path, commit_message):
            sent.append((repo_id, repo_type, sorted(path.name for path in folder_path.iterdir())))
            return SimpleNamespace(repo_url=f"https://hub/{repo_id}")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    words = ["--results", str(micro_run / "results/micro"), "--suite", "tests", "--out", str(tmp_path)]
    words = ["export", "--format", "hub", *words, "--licence", "mit", "--push", "me/mine", "gt-s1/step-4"]
    assert not dispatch(words)
    assert capsys.readouterr().out.splitlines()[2:] == ["https://hub/me/mine", "https://hub/me/mine-rollouts"]
    private = {"private": True, "exist_ok": True}
    assert sent[0] == ("create", "me/mine", {"repo_type": "model", **private})
    assert sent[1][:2] == ("me/mine", "model") and {"README.md", "model.safetensors"} <= set(sent[1][2])
    assert sent[2] == ("create", "me/mine-rollouts", {"repo_type": "dataset", **private})
    assert sent[3] == ("me/mine-rollouts", "dataset", ["README.md", "data"])
    assert "license: mit" in (tmp_path / "gt-s1__step-4/model/README.md").read_text()


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        ("--format hub --push me/mine a/step-1", "t", "--push needs the base model's licence for the card"),
        ("--format hub --licence mit --push me/mine", "t", "--push uploads one checkpoint"),
        ("--format lm-eval --licence mit a/step-1", "t", "--licence belongs to --format hub"),
        ("--format hub --licence mit --push mine a/step-1", "t", "a repository of the hub is written OWNER/NAME"),
        ("--format hub --licence mit --push me/mine a/step-1", None, "--push needs a token with write access"),
    ],
)
def test_a_push_that_cannot_be_is_one_sentence(words, token, said, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(SrtError, match=said):
        dispatch(["export", "--results", str(tmp_path), "--suite", "tests", "--out", str(tmp_path), *words.split()])


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path) -> None:
    class Api:
        def create_repo(self, name, **options):
            raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(SrtError, match=r"the model me/mine could not be uploaded \(no route to the hub\): its folder is "):
        push(tmp_path, tmp_path, "me/mine")
