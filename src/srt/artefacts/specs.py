"""Specs: for each expensive job the JSON of exactly the fields that change its result.

Snakemake compares the spec, a `params` entry, so changing a label, a title, a number of GPUs or a comment never trains
again. A newer optional key is in a spec only if it is used, so that older specs stay as they are. REVISION is raised by
hand when the code of a stage starts to give different results; the profiles do not use Snakemake's trigger `code`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from srt.artefacts.paths import Paths
from srt.common.io import canonical_json, sha256_file
from srt.common.own_code import pinned, source_of
from srt.config.datasets import LocalDataset, ReasoningGymDataset
from srt.config.models import TinyModel
from srt.config.preferences import PAIRS
from srt.config.root import Config
from srt.config.train import Train

REVISION = {"data": 2, "model": 1, "sample": 1, "score": 1, "train": 1}
# added to the revision of data for generators whose answers alone are read differently
GENERATOR_REVISION = {"family_relationships": 1}
# hyperparameters that are in a run's spec only where they differ from this, because they are newer than some results
NEWER_TRAIN = {
    "truncated": "count", "entropy_reward": 0.0, "certainty_reward": 0.0, "label_share": None, "clip_high": None,
    "overlong_cache": None, "warmup_steps": 0, "schedule": "constant", "schedule_steps": None,
}  # fmt: skip
# fields of a model entry that do not change the model's files: resources of jobs, and how the model is sampled
MODEL_RESOURCES = {"parameters", "gpus_train", "gpus_sample", "train_job", "sample_job", "context", "sampling"}


def data_spec(config: Config, dataset: str) -> str:
    """The entry of a data set; every field can change its rows. How a task of one's own compares is not in it."""
    return canonical_json(config.datasets[dataset].model_dump(mode="json", exclude_defaults=True))


def data_revision(config: Config, dataset: str) -> int:
    """The revision of the code that makes a data set."""
    entry = config.datasets[dataset]
    generator = entry.name if isinstance(entry, ReasoningGymDataset) else ""
    return REVISION["data"] + GENERATOR_REVISION.get(generator, 0)


def data_content(config: Config, dataset: str) -> str:
    """The SHA-256 of a local data set's file, wherever it is; "" for other sources, which their entries determine.

    With a reader of the user, also that of its file.

    If the file is missing, returns the hash recorded when the table was made, since data may be removed afterwards.
    """
    entry = config.datasets[dataset]
    if not isinstance(entry, LocalDataset):
        return ""
    try:
        content = _file_hash(entry.file(config.local_dir))
    except OSError:  # if there is no table either, its job reports what is wrong
        content = _hash_in_manifest(Path(Paths(config.results).manifest(dataset)))
    return content if entry.reader is None else f"{content} {source_of(entry.reader, config.code_folders).sha256}"


@cache
def _file_hash(path: Path) -> str:
    """Cached: training and test entries share files, and Snakemake asks several times while it plans jobs."""
    return sha256_file(path)


def _hash_in_manifest(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["input_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def model_spec(config: Config, model: str) -> str:
    """The fields of a base model's entry that change its files."""
    entry = config.models[model]
    left_out = MODEL_RESOURCES | {"prompt_suffix", "prompt"}
    if isinstance(entry, TinyModel):  # it is trained with the suffix, and the context is part of its architecture
        left_out = left_out - {"context", "prompt_suffix"}
    fields = entry.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    return canonical_json({**fields, "revision_of_code": REVISION["model"]})


def sample_spec(config: Config, model: str, suite: str = "") -> str:
    """The sampling settings of `model` on `suite`; without `suite`, those on any suite that sets no sampling keys."""
    return canonical_json(
        {
            **config.sampling_settings(model, suite).model_dump(mode="json"),
            "prompt_suffix": config.models[model].prompt_suffix,
            **_prompt(config, model),
            "revision": REVISION["sample"],
        }
    )


def _prompt(config: Config, model: str) -> dict[str, Any]:
    """The function that makes a model's prompts, if the user has one."""
    own = config.models[model].prompt
    return {} if own is None else {"prompt": pinned(own, config.code_folders)}


def grading_spec(config: Config, suite: str) -> str:
    """How a suite is graded: preset, extractor and the tasks that are functions of the user, as score.py takes them."""
    extractor, tasks = pinned(config.scoring.extractor, config.code_folders), config.own_tasks(suite)
    options = f"--preset {config.scoring.preset} --extractor {extractor}"
    return f"{options} --own-tasks {' '.join(tasks)}" if tasks else options


def preference_spec(config: Config, instance: str) -> dict[str, Any]:
    """How the stored responses of a run are selected; `dpo` and `scpo` have the same pairs."""
    _, run, seed = config.entry(instance)
    kind = "pairs" if run.reward in PAIRS else "sft"
    return {"kind": kind, "seed": seed, **run.preferences.selection(run.reward)}


def train_revision(train: Train) -> int:
    """The revision of the training code: the first one weighted the packs of a bfloat16 step under ZeRO 1 unequally."""
    return REVISION["train"] + (train.dtype == "bfloat16" and train.zero_stage == 1)


def train_spec(config: Config, instance: str) -> str:
    """A run of one seed: reward, data, hyperparameters. Without its length, so that it can be extended."""
    _, run, seed = config.entry(instance)
    origin: dict[str, Any] = {"init": config.start(instance)} if run.init else {}
    if (run.uses_labels or run.uses_stored_responses) and (teacher := config.teacher(instance)) != f"base/{run.model}":
        origin["teacher"] = teacher
    if run.uses_stored_responses:
        origin["preference"] = {**preference_spec(config, instance), **run.preferences.loss(run.reward)}
    if run.on_alarm:  # with the rule: changing it trains these runs again
        origin["on_alarm"] = {"action": run.on_alarm, "rule": config.alarm.model_dump(mode="json")}
    if run.stop_at:
        origin["stop_at"] = run.stop_at.model_dump(mode="json")
    if run.refill:
        origin["refill"] = run.refill.rule()
    origin |= _prompt(config, run.model)
    if run.reward_labels:
        origin["reward_labels"] = run.reward_labels
    if own_tasks := config.own_tasks(run.data):
        origin["own_tasks"] = own_tasks
    train = run.train.hyperparameters()
    if run.train.schedule != "constant":
        train["schedule_steps"] = run.schedule_end
    return canonical_json(
        {
            "run": instance,
            "seed": seed,
            "reward": pinned(run.reward, config.code_folders),
            "model": run.model,
            "data": run.data,
            "curriculum": run.curriculum.model_dump(mode="json", exclude_none=True) if run.curriculum else None,
            "extractor": pinned(config.scoring.extractor, config.code_folders),
            **origin,
            "prompt_suffix": config.models[run.model].prompt_suffix,
            "train": {k: v for k, v in train.items() if k not in NEWER_TRAIN or v != NEWER_TRAIN[k]},
            "revision": train_revision(run.train),
        }
    )
