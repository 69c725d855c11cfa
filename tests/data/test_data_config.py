"""Entries of config/datasets.yaml: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from srt.common.errors import SrtError
from srt.config.datasets import DatasetConfig, HubDataset, LocalDataset, MixPart, ReasoningGymDataset, parse_dataset

RG = {"source": "reasoning_gym", "name": "chain_sum", "size": 5, "split": "train"}
LOCAL = {"source": "local", "path": "a.jsonl"}
HUB = {"source": "hub", "repo": "openai/gsm8k", "revision": "e" * 40}


@pytest.mark.parametrize(("entry", "model"), [(RG, ReasoningGymDataset), (LOCAL, LocalDataset), (HUB, HubDataset)])
def test_source_chooses_the_model(entry: dict[str, Any], model: type) -> None:
    assert type(parse_dataset("x", entry)) is model


def test_every_field_is_described_and_the_schema_can_be_made() -> None:
    for model in (ReasoningGymDataset, LocalDataset, HubDataset, MixPart):
        assert all(field.description for field in model.model_fields.values()), model
    schema = TypeAdapter(DatasetConfig).json_schema()
    assert set(schema["discriminator"]["mapping"]) == {"reasoning_gym", "local", "hub"}


def test_filter_values_keep_their_types() -> None:
    entry = parse_dataset("x", LOCAL | {"filter": {"a": True, "b": 1, "c": "1", "d": [1.5, "x"]}})
    assert repr(entry.filter) == "{'a': True, 'b': 1, 'c': '1', 'd': [1.5, 'x']}"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, ["'source' is missing", "reasoning_gym, local, hub"]),
        ([], ["not a mapping"]),
        ({"source": "locl"}, ["unknown source 'locl'", "did you mean 'local'"]),
        (LOCAL | {"colums": {}}, ["unknown key 'colums'", "did you mean 'columns'"]),
        ({"source": "local", "pth": "x"}, ["unknown key 'pth'", "did you mean 'path'"]),
        ({"source": "local"}, ["'path' is missing"]),
        (LOCAL | {"columns": {"answr": "a"}}, ["columns.answr"]),
        (LOCAL | {"take": 0}, ["'take'", "greater than or equal to 1"]),
        (LOCAL | {"holdout_fraction": 0.1}, ["`part`", "both or neither"]),
        (LOCAL | {"holdout_fraction": 1.0, "part": "train"}, ["'holdout_fraction'", "less than 1"]),
        (HUB | {"revision": "main"}, ["'revision'", "'main' is not a commit hash"]),
        (HUB | {"revision": "E" * 40}, ["'revision'"]),
        (HUB | {"revision": "e53f048"}, ["'revision'", "40 hex digits"]),
        (HUB | {"revision": "e" * 41}, ["'revision'"]),
        (HUB | {"repo": "gsm8k"}, ["'repo'"]),
        (RG | {"size": 0}, ["'size'"]),
        (RG | {"split": "dev"}, ["'split'", "train"]),
        (RG | {"params": {"seed": 3}}, ["`seed` belongs in the entry"]),
        (RG | {"params": {"min_terms": 2}, "mix": [{}]}, ["with `mix`"]),
        (RG | {"mix": [{"parms": {}}]}, ["unknown key 'mix.0.parms'", "did you mean 'params'"]),
        (RG | {"mix": [{"weight": 0}]}, ["mix.0.weight"]),
    ],
)
def test_wrong_entries_are_one_sentence(entry: Any, expected: list[str]) -> None:
    with pytest.raises(SrtError) as caught:
        parse_dataset("amc", entry)
    message = str(caught.value)
    assert message.startswith("data set 'amc': ") and "\n" not in message
    assert all(part in message for part in expected), message
