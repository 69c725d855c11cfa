"""A checkpoint and its rollouts as two folders that the Hugging Face hub takes: a model with a card, a data set.

`export` sends nothing anywhere. `push` uploads the folders, when a person asks for it and has a token.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from srt.artefacts.paths import Paths
from srt.artefacts.records import read_record, record_path
from srt.common.atomic_files import atomic_dir
from srt.common.errors import SrtError
from srt.common.io import read_json, write_parquet, write_text
from srt.metrics.intervals import one_run_interval
from srt.results.folder import Results

PROVENANCE = "srt.json"  # of a model folder; the hub has its own hashes


def export(results: Results, checkpoint: str, suite: str, out: Path, licence: str = "other") -> list[Path]:
    """Write `out`/{checkpoint, `/` as `__`}/model and /rollouts, each with a card, and return both folders.

    `licence`: the model's, by the hub's name for it.

    Raises:
        SrtError: the model or the evaluation is not there.
    """
    source = Path(Paths(str(results.folder)).checkpoint(checkpoint))
    if not (source / "config.json").is_file():
        raise SrtError(f"{source} is not there, so it cannot be exported: make it with snakemake {source}")
    numbers, settings = _numbers(results, checkpoint, suite), results.settings(checkpoint, suite)
    folder = out / checkpoint.replace("/", "__")
    about = _about(results, checkpoint)
    with atomic_dir(folder / "model") as target:
        for file in sorted(path for path in source.iterdir() if path.is_file() and path.name != PROVENANCE):
            shutil.copyfile(file, target / file.name)
        write_text(target / "README.md", _model_card(checkpoint, suite, about, numbers, settings, licence))
    with atomic_dir(folder / "rollouts") as target:
        (target / "data").mkdir()
        name = re.sub(r"\W", "_", suite)
        write_parquet(target / f"data/{name}.parquet", results.responses(checkpoint, suite))
        write_text(target / "README.md", _data_card(checkpoint, name, settings, numbers))
    return [folder / "model", folder / "rollouts"]


def check_push(repository: str) -> None:
    """Raises a `SrtError` unless `repository` is OWNER/NAME and a token of the hub is there."""
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SrtError(f"--push {repository}: a repository of the hub is written OWNER/NAME")
    if not get_token():
        raise SrtError("--push needs a token with write access: run `hf auth login`, or set HF_TOKEN")


def push(model: Path, rollouts: Path, repository: str) -> list[str]:
    """Upload both folders of `export`, to `repository` and to the data set `repository`-rollouts; return their addresses.

    Repositories that do not exist are made private. Files that were there and are not in the folder stay.

    Raises:
        SrtError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # refusals of the hub, and a network that is not there

    api, addresses = HfApi(), []
    for folder, name, kind in ((model, repository, "model"), (rollouts, f"{repository}-rollouts", "dataset")):
        try:
            api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name, repo_type=kind, folder_path=folder, commit_message="Upload by srt export"
            )
        except (HTTPError, OSError) as error:
            reason = " ".join(str(error).split())
            raise SrtError(f"the {kind} {name} could not be uploaded ({reason}): its folder is {folder}") from None
        addresses.append(str(commit.repo_url))
    return addresses


def _numbers(results: Results, checkpoint: str, suite: str) -> list[tuple[str, str, float, float, float]]:
    """Data set, metric, value and 95 % interval over problems; none for data sets without true answers."""
    found = []
    for dataset, part in results.groups(checkpoint, suite).groupby("dataset", sort=False):
        for metric, column in (("avg@n", "pass_rate"), ("maj@n", "majority_correct")):
            values = part[column].to_numpy(dtype=np.float64, na_value=np.nan)
            if np.isfinite(values).all():
                found.append((str(dataset), metric, *one_run_interval(values)))
    return found


def _about(results: Results, checkpoint: str) -> dict[str, Any]:
    """The run's spec and the base model's entry, as far as the folder knows them."""
    record = read_record(record_path(Path(Paths(str(results.folder)).checkpoint(checkpoint))))
    spec = json.loads(record["params"].get("spec", "{}")) if record else {}
    config = Path(Paths(str(results.folder)).config())
    models = read_json(config).get("models", {}) if config.is_file() else {}
    base = spec.get("model", checkpoint.removeprefix("base/"))
    return {"spec": spec, "base": base, "entry": models.get(base, {})}


def _card(head: dict[str, Any], *paragraphs: str) -> str:
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(paragraphs) + "\n"


def _table(numbers: list[tuple[str, str, float, float, float]]) -> str:
    lines = ["| data set | metric | value | 95 % interval over problems |", "|---|---|---|---|"]
    lines += [f"| {name} | {metric} | {mean:.3f} | {lo:.3f} to {hi:.3f} |" for name, metric, mean, lo, hi in numbers]
    return "\n".join(lines) if numbers else "The data sets have no true answers, so there are no accuracies."


def _model_card(
    checkpoint: str, suite: str, about: dict[str, Any], numbers: list[Any], settings: dict[str, Any], licence: str
) -> str:
    repo = about["entry"].get("repo")
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["srt", "math"]}
    head |= {"license": licence} | ({"base_model": repo} if repo else {})
    spec = about["spec"]
    trained = f"Reward `{spec.get('reward')}`, data `{spec.get('data')}`, seed {spec.get('seed')}." if spec else ""
    return _card(
        head,
        f"# {checkpoint}",
        f"Base model: `{repo or about['base']}`. {trained}".strip(),
        f"## Numbers\n\nOn the suite `{suite}`, n = {settings.get('n')}, temperature {settings.get('temperature')}.",
        _table(numbers),
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_REPO")\n'
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_REPO")\n```',
        f"Text that follows each question in training and tests: {settings.get('prompt_suffix')!r}",
        "## Licence\n\nThat of the base model"
        + (": name it in the field `license` above before you publish." if licence == "other" else f": {licence}."),
        f"## Run\n\n```json\n{json.dumps(spec, indent=1, sort_keys=True)}\n```",
    )


def _data_card(checkpoint: str, name: str, settings: dict[str, Any], numbers: list[Any]) -> str:
    files = [{"split": "test", "path": f"data/{name}.parquet"}]
    return _card(
        {"license": "other", "configs": [{"config_name": name, "data_files": files}]},
        f"# Rollouts of {checkpoint}",
        "One row per response: `dataset`, `problem_id`, `sample`, the question `problem`, its `reference`, the `response`, the "
        "`answer` found in it, and whether it is `correct`.",
        _table(numbers),
        "Questions and references are those of the data sets that are named: their licences apply.",
        f"Drawn with:\n\n```json\n{json.dumps(settings, indent=1, sort_keys=True)}\n```",
    )
