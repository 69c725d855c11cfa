"""Key `model`: another model in place of the base model of a configuration, and nothing else changed."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from srt.artefacts.specs import model_spec, sample_spec, train_spec
from srt.cli.shared import merged
from srt.common.errors import SrtError
from srt.config import Config, load_config, read_yaml
from srt.config.models import ModelBase
from srt.cost.shapes import shape_of_model
from srt.workflow import preflight
from support import ROOT, warm

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SIZES = {
    "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a model, as far as they are looked at before the first job."""
    made = tmp_path / "mine"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(SIZES))
    for name in ("model.safetensors", "tokenizer.json"):
        (made / name).touch()
    return made


def configuration(*files: str, **changes: Any) -> Config:
    names = [f"config/{file}.yaml" for file in files]
    return load_config(reduce(merged, (read_yaml(ROOT / name) for name in names)) | changes, ROOT, names[-1], names)


@pytest.mark.parametrize("files", [("real",), ("real", "real_quick"), ("real", "real_more"), ("smollm2",)])
def test_a_folder_replaces_the_model_and_nothing_else(files: tuple[str, ...], folder: Path) -> None:
    before, after = configuration(*files), configuration(*files, model=f"{folder}/")
    old, new = before.models["smollm2"], after.models["smollm2"]
    assert (new.source, new.path, after.model) == ("local", str(folder), str(folder))
    assert {key: getattr(new, key) for key in ModelBase.model_fields} == {
        key: getattr(old, key) for key in ModelBase.model_fields
    }
    assert new.examples and new.prompt_suffix == " Put the final answer in \\boxed{}." and new.context == 2048
    assert after == before.model_copy(update={"model": after.model, "models": {"smollm2": new}})
    assert Config.model_validate(after.model_dump(mode="json")) == after, "as it is recorded in the results folder"

    one, other = (json.loads(model_spec(config, "smollm2")) for config in (before, after))
    for key in ("source", "package", "file", "sha256"):
        del one[key]
    assert other == one | {"source": "local", "path": str(folder)}
    assert sample_spec(after, "smollm2") == sample_spec(before, "smollm2")
    runs = [instance for run in after.runs for instance in after.instances(run)]
    assert [train_spec(after, run) for run in runs] == [train_spec(before, run) for run in runs]
    assert shape_of_model(new).layers == SIZES["num_hidden_layers"]


def test_a_model_of_the_hub_at_its_commit() -> None:
    entry = configuration("real", model=f"HuggingFaceTB/SmolLM2-360M-Instruct@{COMMIT}").models["smollm2"]
    assert (entry.source, entry.repo, entry.revision) == ("hub", "HuggingFaceTB/SmolLM2-360M-Instruct", COMMIT)


def test_models_that_nothing_uses_stay(folder: Path) -> None:
    """`mini` has a second entry, which its second version uses; a tiny model's own defaults are kept as well."""
    before, after = configuration("mini"), configuration("mini", model=str(folder))
    changed = [name for name in before.models if before.models[name] != after.models[name]]
    assert len(before.models) == 2 and len(changed) == 1
    assert (after.models[changed[0]].gpus_train, after.models[changed[0]].context) == (0, 128)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (5, "must be text, not 5: put it in quotes"),
        ("/no/such", "there is no folder '/no/such': correct the path, or name a model of the hub as owner/name@COMM"),
        ("a/b", "'a/b' is no folder here, and as a model of the hub it lacks its commit: write a/b@COMMIT with what "
         "`git ls-remote https://huggingface.co/a/b HEAD` prints"),
        ("a/b@main", "as a model of the hub it has no commit of 40 hex digits ('main'): write a/b@COMMIT with what"),
        ("a/b@" + "A" * 40, "as a model of the hub it has no commit of 40 hex digits ('AAAA"),
        ("without config.json", "has no config.json: name a folder in Hugging Face format"),
        ("without model.safetensors", "has no .safetensors file: save the model with `save_pretrained`"),
        ("without tokenizer.json", "has no tokenizer, such as tokenizer.json: save the model's with"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(model: Any, expected: str, folder: Path) -> None:
    if str(model).startswith("without "):
        (folder / model.removeprefix("without ")).unlink()
        model, expected = str(folder), f"{folder} {expected}"
    with pytest.raises(SrtError) as caught:
        configuration("real", model=model)
    assert str(caught.value).startswith("--config: model: ") and expected in str(caught.value)


def test_several_models_are_not_replaced_by_one(folder: Path) -> None:
    with pytest.raises(SrtError) as caught:
        configuration("config", model=str(folder))
    assert str(caught.value).startswith(
        "--config: model: takes the place of one base model, but this configuration uses 6 (qwen2_5_math_7b, "
    )


def test_results_of_another_model_are_not_made_again(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    own, mine = (configuration("real", results=str(results), model=model) for model in (None, str(folder)))
    assert preflight.results(own).good and preflight.results(mine).good, "nothing is made yet"
    (results / "models/smollm2").mkdir(parents=True)
    fix = "name another folder with --config results=FOLDER"
    # of a start without the key, or of a version that did not have it
    for recorded in (own.model_dump_json(), "{}", None):
        if recorded is None:
            (results / "config.json").unlink()
        else:
            (results / "config.json").write_text(recorded)
        assert preflight.results(own).good
        assert preflight.results(mine) == preflight.Finding(
            "results", False, f"{results} has results of the configuration's own model, not of {folder}: {fix}"
        )
    (results / "config.json").write_text(mine.model_dump_json())
    assert preflight.results(mine).good
    assert preflight.results(own).text == (
        f"{results} has results of {folder}, not of the configuration's own model: {fix}"
    )


@pytest.mark.slow
def test_snakemake_plans_it_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    done = warm.run(
        ["-m", "snakemake", "gain", "-n", "-p", "-s", str(ROOT / "Snakefile"), "--directory", str(tmp_path),
         "--workflow-profile", "none", "--configfile", *(str(ROOT / f"config/{name}.yaml") for name in
         ("real", "real_quick")), "--config", f"model={folder}", "results=out"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f'"path":"{folder}","revision_of_code":1,"source":"local"' in done.stdout
    assert "out/runs/srt_easy-s1/step-" in done.stdout and "warning: models" not in done.stderr
