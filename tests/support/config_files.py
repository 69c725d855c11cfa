"""A small, complete configuration as files (text, so that mistakes can be typed), and the shipped full one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srt.artefacts.specs import data_spec, model_spec, sample_spec, train_spec
from srt.config import Config, load_config, read_yaml
from support import ROOT

MAIN, MODELS, DATASETS, RUNS, FIGURES = "main.yaml", "models.yaml", "datasets.yaml", "runs.yaml", "figures.yaml"

FILES = {
    "main.yaml": """\
results: results/test
local_dir: data
files:
  models: models.yaml
  datasets: datasets.yaml
  runs: runs.yaml
  figures: figures.yaml
save_every: 5
sampling:
  n: 8
  max_prompt_tokens: 40
  max_new_tokens: 60
  engine: transformers
scoring:
  preset: clean
suites:
  tests: [sums_test, more_test]
  other: [far_test]
train_defaults:
  max_prompt_tokens: 40
  max_new_tokens: 60
  learning_rate: 1.0e-4
""",
    "models.yaml": """\
tiny:
  source: tiny
  context: 128
  parts:
    - params: {min_terms: 2, max_terms: 2}
      weight: 1
hub7b:
  source: hub
  repo: Qwen/Qwen2.5-Math-7B
  revision: b101308fe89651ea5ce025f25317fea6fc07e96e
""",
    "datasets.yaml": """\
sums:
  source: reasoning_gym
  name: chain_sum
  size: 32
  split: train
sums_test: {source: reasoning_gym, name: chain_sum, size: 16, split: test}
more_test:
  source: local
  path: more.jsonl
far_test:
  source: hub
  repo: openai/gsm8k
  revision: e53f048856ff4f594e959d75785d2c2d37b678ee
""",
    "runs.yaml": """\
gt:
  label: Ground truth
  method: ground_truth
  model: tiny
  data: sums
  reward: ground_truth
  steps: 12
  segment: 6
  suites: [tests]
  train: {kl_coefficient: 0.01}
srt:
  label: SRT
  method: srt
  model: tiny
  data: sums
  reward: majority
  seeds: [1, 2]
  steps: 12
  segment: 6
  suites: [tests, far_test]
  curriculum: {by: pass_rate}
""",
    "figures.yaml": """\
fig2:
  kind: curves
  title: Curves
  suite: tests
  datasets: [sums_test, more_test]
  panels:
    - {title: Sums, runs: [srt, gt]}
  options:
    validation_dataset: more_test
fig9:
  kind: gap
  title: Gap
  suite: tests
  datasets: [sums_test]
  model: tiny
""",
}


def write(folder: Path) -> Path:
    """Write the configuration to `folder`; returns the main file."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "main.yaml"


def change(folder: Path, file: str, old: str, new: str) -> None:
    """Replace `old` in a file of the configuration, which must be there; an empty `old` replaces everything."""
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {file}"
    (folder / file).write_text(text.replace(old, new, 1) if old else new, encoding="utf-8")


def load(folder: Path) -> Config:
    """The configuration in `folder`."""
    return load_config(read_yaml(folder / MAIN), folder, MAIN, [folder / MAIN])


def specs(config: Config) -> dict[str, str]:
    """Every spec of a configuration by its stage and name; run `srt` has two seeds."""
    return {
        **{f"data {name}": data_spec(config, name) for name in config.datasets},
        **{f"model {name}": model_spec(config, name) for name in config.models},
        **{f"sample {name}": sample_spec(config, name) for name in config.models},
        **{f"train {i}": train_spec(config, i) for run in config.runs for i in config.instances(run)},
    }


def full(**overrides: Any) -> Config:
    """The full configuration of the paper, `config/config.yaml`."""
    raw = read_yaml(ROOT / "config/config.yaml") | overrides
    return load_config(raw, ROOT, configfiles=["config/config.yaml"])
