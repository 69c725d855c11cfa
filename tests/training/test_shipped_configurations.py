"""Each set of `train` options that a shipped configuration has takes its first step in the real trainer.

Model, batch and lengths are tiny, and `rollout_engine` is transformers: tests/training/test_vllm_training.py starts
vLLM.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from srt.artefacts.specs import train_spec
from srt.cli.shared import merged
from srt.common.io import canonical_json, read_parquet, write_parquet
from srt.config import Config, load_config, read_yaml
from srt.config.models import BOXED_SUFFIX
from srt.config.preferences import OFFLINE
from srt.distributed.world import init_world
from srt.labels.preferences import SCHEMA
from srt.training.alarm_action import action_of
from srt.training.run import trainer_of
from srt.training.training_set import read_training_set
from support import ROOT
from support.families import base_of
from support.training import whole_run

SIZES = {
    "prompts_per_step": 2, "rollouts_per_prompt": 4, "rollouts_trained": 3, "max_prompt_tokens": 40,
    "max_new_tokens": 16, "micro_batch_tokens": 600, "rollout_engine": "transformers",
}  # fmt: skip
LAYERS = {f"mini_{name}.yaml": "mini.yaml" for name in ("ablations", "rewards", "v2")} | {"real_gpu.yaml": "real.yaml"}
NAMES = ("run", "seed", "model", "data", "curriculum", "init", "teacher", "revision")  # without effect on a step's code


def shipped_configurations() -> dict[str, Config]:
    """The main files below config/, a layer over the file that it is laid over; the others there are their sections."""
    found = {}
    for path in sorted((ROOT / "config").rglob("*.yaml")):
        raw = read_yaml(path)
        if "results" in raw:
            files = [ROOT / "config" / LAYERS[path.name]] if path.name in LAYERS else []
            for file in files:
                raw = merged(read_yaml(file), raw)
            found[path.name] = load_config(raw, ROOT, str(path), [*files, path])
    return found


def shipped_specs() -> dict[str, dict]:
    """Each distinct spec of a run, with tiny sizes, by the first run that has it."""
    specs: dict[str, dict] = {}
    for file, config in shipped_configurations().items():
        for name in config.runs:
            spec = json.loads(train_spec(config, config.instances(name)[0]))
            options = {key: value for key, value in spec.items() if key not in NAMES}
            options |= {"prompt_suffix": BOXED_SUFFIX, "train": options["train"] | SIZES}
            key = canonical_json(options | {"train": options["train"] | {"learning_rate": None}})  # runs the same code
            specs.setdefault(key, {**options, "run": f"{file}: {name}", "seed": 1})
    return {spec["run"]: spec for spec in specs.values()}


SPECS = shipped_specs()


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory, tiny_base) -> Path:
    """A tiny model of SmolLM2's architecture."""
    return base_of("smollm2", tmp_path_factory.mktemp("llama") / "base", tiny_base)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, tiny_base, sums) -> dict[str, Path]:
    """Labels and stored responses for the problems of `sums`."""
    folder = tmp_path_factory.mktemp("tables")
    problems = read_parquet(sums, ["id"]).column("id").to_pylist()
    labels = pa.table({"problem_id": problems, "label": ["7"] * len(problems)})
    encode = AutoTokenizer.from_pretrained(tiny_base).encode
    right, wrong = (encode(f"\\boxed{{{answer}}}", add_special_tokens=False) for answer in (7, 8))
    chosen = [(name, 0, True, "7", 3, 0.5, right) for name in problems]
    rejected = [(name, 1, False, "8", 1, 0.5, wrong) for name in problems]
    found = {"labels": labels}
    pairs = [row for two in zip(chosen, rejected, strict=True) for row in two]
    for name, rows in (("sft", chosen), ("pairs", pairs)):
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
        found[name] = pa.Table.from_arrays(columns, schema=SCHEMA)
    for name, table in found.items():
        write_parquet(folder / f"{name}.parquet", table, {"spec": {"kind": name}})
    return {name: folder / f"{name}.parquet" for name in found}


def test_all_configurations_are_read() -> None:
    found = {"config.yaml", "mini.yaml", "real.yaml", "smoke.yaml", "smollm2.yaml"}
    assert set(shipped_configurations()) == found | set(LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_takes_its_first_step(name, tmp_path, tiny_base, tiny_llama, sums, tables) -> None:
    spec = SPECS[name]
    reward, action = spec["reward"], action_of(spec)
    labels = tables["labels"] if "offline_labels" in (reward, action) else None
    stored = tables["sft" if reward == "sft" else "pairs"] if reward in OFFLINE else None
    share = spec["train"].get("label_share")
    data, truth = read_training_set(sums, reward, None, labels, action, stored, label_share=share, seed=spec["seed"])
    base = tiny_llama if name.startswith("real") else tiny_base
    trainer = trainer_of(reward)(whole_run(tmp_path, base, spec, stop=1), data, init_world(), truth)
    row, _ = trainer.timed_step(0)
    assert row["step"] == 1 and row["skipped"] == 0 and row["tokens"] > 0
    assert math.isfinite(row["loss"]) and row["grad_norm"] >= 0
    with trainer.policy.whole():
        assert all(p.isfinite().all() for _, p in trainer.policy.weights())
