"""Specs: which changes train or sample again; presets; numbers in other spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srt.artefacts.specs import NEWER_TRAIN, train_spec
from srt.config import Config, load_config, read_yaml
from srt.config.runs import Run
from srt.config.train import PRESETS, Train
from support import ROOT
from support.config_files import change, load, specs, write

MAIN, MODELS, DATASETS, RUNS, FIGURES = "main.yaml", "models.yaml", "datasets.yaml", "runs.yaml", "figures.yaml"


def changed(folder: Path, file: str, old: str, new: str) -> set[str]:
    """The specs that an edit of a file changes, adds or removes."""
    write(folder)
    before = specs(load(folder))
    change(folder, file, old, new)
    after = specs(load(folder))
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (RUNS, "label: SRT", "label: Self-training"),
        (RUNS, "method: srt", "method: test_time"),
        (RUNS, "steps: 12\n  segment: 6\n  suites: [tests, far_test]", "steps: 24\n  segment: 6\n  suites: [tests]"),
        (RUNS, "# nothing", "# nothing"),
        (MODELS, "context: 128", "context: 128\n  gpus_train: 2\n  gpus_sample: 4\n  parameters: 1.0e+6"),
        (MODELS, "repo: Qwen", "context: 8192\n  gpus_train: 4\n  repo: Qwen"),
        (MODELS, "repo: Qwen", "prompt_template: null\n  prompt_date: null\n  end_tokens: []\n  repo: Qwen"),
        (FIGURES, "title: Curves", "title: Other curves\n  average: false\n  metric: maj"),
        (FIGURES, "datasets: [sums_test, more_test]", "datasets: [sums_test]"),
        (MAIN, "save_every: 5", "save_every: 7\nkeep_states: all"),
        (MAIN, "results: results/test", "results: elsewhere"),
        (MAIN, "preset: clean", "preset: authors\n  timeout_s: 9\n  workers: 1\n  memory_mb: 900"),
        (MAIN, "[far_test]", "[far_test, more_test]"),
        (MAIN, "1.0e-4", "1e-4"),  # another spelling of the same number
        (MAIN, "1.0e-4", "0.0001"),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: '0.01'"),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, preset: clean, kl_clamp: null, truncated: count"),
        (
            RUNS,
            "kl_coefficient: 0.01",
            "kl_coefficient: 0.01, entropy_reward: 0, certainty_reward: 0.0, label_share: null",
        ),
        (
            RUNS,
            "kl_coefficient: 0.01",
            "kl_coefficient: 0.01, clip_high: null, overlong_cache: null, schedule: constant, warmup_steps: 0",
        ),
    ],
)
def test_what_changes_no_spec(file: str, old: str, new: str, tmp_path: Path) -> None:
    if old == "# nothing":
        old, new = "gt:\n", "# a comment\ngt: # another\n"
    assert changed(tmp_path, file, old, new) == set()


RUN_SRT, RUN_GT = {"train srt-s1", "train srt-s2"}, {"train gt-s1"}
ALL_OF_TINY = {"model tiny", "sample tiny"} | RUN_SRT | RUN_GT


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (MAIN, "1.0e-4", "2.0e-4", RUN_GT | RUN_SRT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, learning_rate: 3.0e-4", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, preset: authors", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, dtype: float32", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, threads: 2", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, kl_clamp: 5", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, truncated: mask", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, clip: 0.2, clip_high: 0.28", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, overlong_cache: 9", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, warmup_steps: 2", RUN_GT),
        (RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, schedule: linear", RUN_GT),
        (RUNS, "reward: majority", "reward: offline_labels", RUN_SRT),
        (RUNS, "reward: majority", "reward: majority\n  refill: {dynamic_sampling: true}", RUN_SRT),
        (RUNS, "reward: majority", "reward: majority\n  on_alarm: stop", RUN_SRT),
        (RUNS, "reward: majority", "reward: majority\n  on_alarm: offline_labels", RUN_SRT),
        (RUNS, "reward: ground_truth", "reward: ground_truth\n  stop_at: {accuracy: 0.9}", RUN_GT),
        (RUNS, "data: sums\n  reward: majority", "data: sums_test\n  reward: majority", RUN_SRT),
        (RUNS, "curriculum: {by: pass_rate}", "curriculum: {by: majority_frequency}", RUN_SRT),
        (RUNS, "curriculum: {by: pass_rate}", "curriculum: {by: pass_rate, fraction: 0.5}", RUN_SRT),
        (RUNS, "seeds: [1, 2]", "seeds: [1, 3]", {"train srt-s2", "train srt-s3"}),  # seed 1 stays
        (RUNS, "seeds: [1, 2]", "seeds: [1, 2, 3]", {"train srt-s3"}),
        (MAIN, "preset: clean", "extractor: boxed_or_last_number", RUN_GT | RUN_SRT),
        (MAIN, "n: 8", "n: 9", {"sample tiny", "sample hub7b"}),
        (MAIN, "n: 8", "n: 8\n  dtype: float32", {"sample tiny", "sample hub7b"}),
        (MAIN, "n: 8", "n: 8\n  threads: 2", {"sample tiny", "sample hub7b"}),
        (MAIN, "n: 8", "n: 8\n  seed: 1", {"sample tiny", "sample hub7b"}),
        (MODELS, "context: 128", "context: 128\n  prompt_suffix: ' Go.'", ALL_OF_TINY),
        (MODELS, "repo: Qwen", "prompt_suffix: ' Go.'\n  repo: Qwen", {"sample hub7b"}),
        (MODELS, "context: 128", "context: 144", {"model tiny"}),
        (MODELS, "context: 128", "context: 128\n  prompt_template: plain", {"model tiny"}),
        (MODELS, "repo: Qwen", "prompt_date: 2025-01-02\n  repo: Qwen", {"model hub7b"}),
        (MODELS, "repo: Qwen", "end_tokens: [<|im_end|>]\n  repo: Qwen", {"model hub7b"}),
        (MODELS, "context: 128", "context: 128\n  threads: 1", {"model tiny"}),
        (MODELS, "b101308f", "c101308f", {"model hub7b"}),
        (DATASETS, "size: 32", "size: 33", {"data sums"}),
        (DATASETS, "more.jsonl", "more.jsonl\n  take: 5", {"data more_test"}),
    ],
)  # fmt: skip
def test_what_changes_which_specs(file: str, old: str, new: str, expected: set[str], tmp_path: Path) -> None:
    assert changed(tmp_path, file, old, new) == expected


def test_a_schedule_ends_with_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    """Only a rate that falls depends on the run's length; with its end spelled out it can be extended."""
    write(tmp_path)
    change(tmp_path, RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, schedule: cosine")
    spec = train_spec(load(tmp_path), "gt-s1")
    assert json.loads(spec)["train"]["schedule_steps"] == 12
    change(tmp_path, RUNS, "schedule: cosine", "schedule: cosine, schedule_steps: 12")
    assert train_spec(load(tmp_path), "gt-s1") == spec
    change(tmp_path, RUNS, "schedule_steps: 12", "schedule_steps: 24")
    other = train_spec(load(tmp_path), "gt-s1")
    change(
        tmp_path, RUNS, "steps: 12\n  segment: 6\n  suites: [tests]\n", "steps: 24\n  segment: 6\n  suites: [tests]\n"
    )
    assert train_spec(load(tmp_path), "gt-s1") == other != spec


def test_a_rule_of_refill_says_in_the_spec_what_it_uses(tmp_path: Path) -> None:
    """As before there was a second rule, where that one is not used."""
    write(tmp_path)
    old = "reward: majority"
    for rule, said in (
        ("{majority: 0.6}", {"majority": 0.6, "rounds": 4}),
        ("{majority: 0.6, dynamic_sampling: false}", {"majority": 0.6, "rounds": 4}),
        ("{dynamic_sampling: true, rounds: 2}", {"dynamic_sampling": True, "rounds": 2}),
    ):
        change(tmp_path, RUNS, old, f"reward: majority\n  refill: {rule}")
        old = f"reward: majority\n  refill: {rule}"
        assert json.loads(train_spec(load(tmp_path), "srt-s1"))["refill"] == said


def test_swapping_two_values_changes_the_spec(tmp_path: Path) -> None:
    old = "kl_coefficient: 0.01"
    write(tmp_path)
    change(tmp_path, RUNS, old, "kl_coefficient: 0.01, learning_rate: 0.001")
    one = train_spec(load(tmp_path), "gt-s1")
    change(tmp_path, RUNS, "kl_coefficient: 0.01, learning_rate: 0.001", "kl_coefficient: 0.001, learning_rate: 0.01")
    other = train_spec(load(tmp_path), "gt-s1")
    assert one != other and sorted(one) == sorted(other)


def test_specs_are_stable_strings(tmp_path: Path) -> None:
    write(tmp_path)
    first = specs(load(tmp_path))
    text = (tmp_path / RUNS).read_text()
    entries = text.partition("srt:\n")
    lines = [line for line in entries[2].splitlines() if line]
    (tmp_path / RUNS).write_text("srt:\n" + "\n".join(reversed(lines)) + "\n" + entries[0])  # another order of keys
    assert specs(load(tmp_path)) == first
    for spec in first.values():
        assert "\n" not in spec
        assert spec == json.dumps(json.loads(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_every_hyperparameter_is_in_the_spec(tmp_path: Path) -> None:
    write(tmp_path)
    spec = json.loads(train_spec(load(tmp_path), "srt-s2"))
    assert (
        set(spec["train"]) == set(Train.model_fields) - set(NEWER_TRAIN) - {"trackers"}
        and spec["seed"] == 2
        and spec["run"] == "srt-s2"
    )
    left_out = {
        "label", "method", "seeds", "steps", "segment", "suites", "probe", "gpus", "job", "reference_offload",
        "engine_sleep", "rollout_tensor_parallel", "extends", "validation",
    }  # fmt: skip
    in_it_when_used = {"init", "teacher", "on_alarm", "stop_at", "refill", "preference", "reward_labels"}
    assert set(Run.model_fields) - left_out - in_it_when_used <= set(spec)
    assert not (left_out | in_it_when_used) & set(spec)


def test_trackers_train_nothing_again(tmp_path: Path) -> None:
    write(tmp_path)
    before = specs(load(tmp_path))
    change(tmp_path, RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, trackers: [tensorboard, wandb]")
    config = load(tmp_path)
    assert config.runs["gt"].train.trackers == ["tensorboard", "wandb"] and specs(config) == before
    assert config.runs["srt"].train.trackers == ["tensorboard"]


def test_runs_whose_gradients_were_wrong_are_trained_again(tmp_path: Path, root: Path) -> None:
    """Those in bfloat16 under ZeRO 1; all other specs of the shipped configurations stay."""
    for key, revision in (("zero_stage: 1", 2), ("zero_stage: 2", 1), ("dtype: float32", 1)):
        write(tmp_path)
        change(tmp_path, RUNS, "kl_coefficient: 0.01", key)
        assert json.loads(train_spec(load(tmp_path), "gt-s1"))["revision"] == revision
    for file in ("config/smoke.yaml", "config/mini.yaml", "config/config.yaml"):
        config = load_config(read_yaml(root / file), root, file, [file])
        found = {json.loads(train_spec(config, i))["revision"] for run in config.runs for i in config.instances(run)}
        assert found == {1}, file


def test_presets_are_what_the_documents_say() -> None:
    clean, authors = Train(preset="clean").resolved(), Train(preset="authors").resolved()
    assert (clean.entropy_coefficient, clean.aggregation, clean.kl_clamp, clean.unparsable_groups, clean.votes) == (
        0.0, "token_mean", None, "drop", "clean",
    )  # fmt: skip
    assert (authors.entropy_coefficient, authors.aggregation, authors.kl_clamp, authors.unparsable_groups) == (
        0.001, "token_mean_micro", 10.0, "keep",
    )  # fmt: skip
    assert authors.votes == "authors"
    assert Train(preset="authors", kl_clamp=3.0).resolved().kl_clamp == 3.0
    assert {Train(preset=name).resolved().truncated for name in PRESETS} == {"count"}  # type: ignore[arg-type]
    for preset in PRESETS.values():  # all presets set the same keys, none of which has a default of its own
        assert set(preset) == set(PRESETS["clean"])
        assert set(preset) <= {k for k, v in Train.model_fields.items() if v.default is None}


def test_an_entry_wins_over_train_defaults_and_they_over_the_preset(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "learning_rate: 1.0e-4", "learning_rate: 1.0e-4\n  preset: authors\n  kl_clamp: 2")
    change(tmp_path, RUNS, "kl_coefficient: 0.01", "kl_coefficient: 0.01, learning_rate: 5.0e-5")
    config = load(tmp_path)
    gt, srt = config.runs["gt"].train.resolved(), config.runs["srt"].train.resolved()
    assert (gt.learning_rate, srt.learning_rate) == (5e-5, 1e-4)
    assert gt.kl_clamp == srt.kl_clamp == 2.0 and gt.aggregation == "token_mean_micro"


@pytest.mark.parametrize("spelling", ["1e-6", "'1e-6'", "1.0e-6", "0.000001", "1E-06"])
def test_spellings_of_a_small_number(spelling: str, tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "1.0e-4", spelling)
    assert load(tmp_path).runs["srt"].train.learning_rate == 1e-6


@pytest.mark.parametrize("spelling", ["", "{}", "null"])
def test_a_section_with_all_lines_commented_out_is_the_default(spelling: str, tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "scoring:\n  preset: clean", f"scoring: {spelling}")
    change(tmp_path, RUNS, "train: {kl_coefficient: 0.01}", f"train: {spelling}")
    assert load(tmp_path).runs["gt"].train.learning_rate == 1e-4


def test_anchors_and_merge_keys_are_not_repeated_keys(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, RUNS, "gt:\n", "gt: &gt\n")
    (tmp_path / RUNS).open("a").write("copy:\n  <<: *gt\n  label: Copy\n")
    config = load(tmp_path)
    assert config.runs["copy"].label == "Copy" and config.runs["copy"].train == config.runs["gt"].train


@pytest.mark.parametrize("file", ["config/smoke.yaml", "config/config.yaml"])
def test_the_shipped_configurations_are_valid(file: str, root: Path) -> None:
    config = load_config(read_yaml(root / file), root, file, [file])
    made: dict[str, Any] = specs(config)
    assert len(set(made.values())) > len(config.runs)


def test_results_folder_is_normalised(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "results/test", "./results//test/")
    assert load(tmp_path).results == "results/test"


@pytest.mark.parametrize("main", ["config", "smoke", "mini", "smollm2"])
def test_a_resolved_configuration_is_read_as_itself(main):
    """Rules pass it to jobs as config.json, with every key and default spelled out."""
    config = load_config(read_yaml(ROOT / f"config/{main}.yaml"), ROOT, f"config/{main}.yaml")
    assert Config.model_validate_json(config.model_dump_json()) == config
