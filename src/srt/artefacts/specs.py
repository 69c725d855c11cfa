"""Specs: for each expensive job the JSON of exactly the fields that change its result.

A spec is the one `params` entry that Snakemake compares, so a label, a title, a number of GPUs or a comment never
retrains. Optional keys are in it only when they are used, so that a new one leaves the specs of all others as they
were. REVISION is raised by hand when a stage's code starts to give other results: an honest `code` trigger.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from srt.artefacts.paths import Paths
from srt.common.io import canonical_json, sha256_file
from srt.config.datasets import LocalDataset, ReasoningGymDataset
from srt.config.models import ModelBase, TinyModel
from srt.config.preferences import PAIRS
from srt.config.root import Config
from srt.config.train import Train

REVISION = {"data": 2, "model": 1, "sample": 1, "score": 1, "train": 1}
# added to that of data for generators whose labels alone are read in another way
GENERATOR_REVISION = {"family_relationships": 1}
# what only says how much to ask of a machine
MODEL_RESOURCES = {"parameters", "gpus_train", "gpus_sample", "train_job", "sample_job", "context", "sampling"}


def data_spec(config: Config, dataset: str) -> str:
    """The entry of a data set, as it is (every field of it can change rows)."""
    return canonical_json(config.datasets[dataset].model_dump(mode="json", exclude_defaults=True))


def data_revision(config: Config, dataset: str) -> int:
    """The revision of the code that makes a data set."""
    entry = config.datasets[dataset]
    generator = entry.name if isinstance(entry, ReasoningGymDataset) else ""
    return REVISION["data"] + GENERATOR_REVISION.get(generator, 0)


def data_content(config: Config, dataset: str) -> str:
    """The SHA-256 of a local data set's file, wherever that lies; "" of other sources, whose entries say it all.

    A file that is not there counts as the one that the table was made of: data may be put away afterwards.
    """
    entry = config.datasets[dataset]
    if not isinstance(entry, LocalDataset):
        return ""
    try:
        return _file_hash(entry.file(config.local_dir))
    except OSError:  # if the table is not made yet either, its job says what is wrong
        return _hash_in_manifest(Path(Paths(config.results).manifest(dataset)))


@cache
def _file_hash(path: Path) -> str:
    """Train and test entries share files, and each is asked for several times while jobs are planned."""
    return sha256_file(path)


def _hash_in_manifest(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["input_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def model_spec(config: Config, model: str) -> str:
    """The entry of a base model without what only sizes its jobs; for a tiny one the context is architecture."""
    entry = config.models[model]
    spared = (MODEL_RESOURCES - {"context"}) if isinstance(entry, TinyModel) else MODEL_RESOURCES
    # the prompt suffix changes prompts, not the weights of a model that is only fetched
    if not isinstance(entry, TinyModel):
        spared = spared | {"prompt_suffix"}
    fields = entry.model_dump(mode="json", exclude=spared, exclude_defaults=True)
    return canonical_json({**fields, "revision_of_code": REVISION["model"]})


def _prompting(model: ModelBase) -> dict[str, Any]:
    return {"prompt_suffix": model.prompt_suffix}


def sample_spec(config: Config, model: str, suite: str = "") -> str:
    """How a checkpoint of `model` is sampled, on a suite with its own sampling otherwise."""
    return canonical_json(
        {
            **config.sampling_of(model, suite).model_dump(mode="json"),
            **_prompting(config.models[model]),
            "revision": REVISION["sample"],
        }
    )


def preference_spec(config: Config, instance: str) -> dict[str, Any]:
    """How the stored responses of a run are selected; `dpo` and `scpo` have the same pairs."""
    _, run, seed = config.entry(instance)
    kind = "pairs" if run.reward in PAIRS else "sft"
    return {"kind": kind, "seed": seed, **run.preferences.selection(run.reward)}


def train_revision(train: Train) -> int:
    """The revision of the code that trains; at first a step's packs weighed differently in bfloat16 under ZeRO 1."""
    return REVISION["train"] + (train.dtype == "bfloat16" and train.zero_stage == 1)


def train_spec(config: Config, instance: str) -> str:
    """A run of one seed: reward, data, hyperparameters; not its length, so that it can be extended."""
    _, run, seed = config.entry(instance)
    origin: dict[str, Any] = {"init": config.start(instance)} if run.init else {}
    if (run.uses_labels or run.uses_stored_responses) and (teacher := config.teacher(instance)) != f"base/{run.model}":
        origin["teacher"] = teacher
    if run.uses_stored_responses:
        origin["preference"] = {**preference_spec(config, instance), **run.preferences.loss(run.reward)}
    if run.on_alarm:  # with the rule: another one trains these runs again
        origin["on_alarm"] = {"action": run.on_alarm, "rule": config.alarm.model_dump(mode="json")}
    if run.refill:
        origin["refill"] = run.refill.model_dump(mode="json")
    return canonical_json(
        {
            "run": instance,
            "seed": seed,
            "reward": run.reward,
            "model": run.model,
            "data": run.data,
            "curriculum": run.curriculum.model_dump(mode="json", exclude_none=True) if run.curriculum else None,
            "extractor": config.scoring.extractor,
            **origin,
            **_prompting(config.models[run.model]),
            "train": run.train.resolved().model_dump(mode="json"),
            "revision": train_revision(run.train),
        }
    )
