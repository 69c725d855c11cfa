"""The full matrix: every cell of the paper, and runs that start from, learn from or stop by other runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srt.artefacts.evaluations import evaluation_spec, evaluations, expand_evaluations
from srt.artefacts.specs import data_spec, model_spec, sample_spec, train_spec
from srt.common.errors import SrtError
from srt.config import Config
from srt.config.lookups import lineage
from srt.data.row_selection import select_rows
from srt.figures.resolve import resolve_figure
from srt.plan.jobs import build
from srt.plan.price import Pricing
from support.config_files import change, full, load, write

MAIN, MODELS, DATASETS, RUNS = "main.yaml", "models.yaml", "datasets.yaml", "runs.yaml"


@pytest.fixture(scope="module")
def matrix() -> Config:
    return full()


# -- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen2_5_math_7b", "qwen3_14b_base"])
@pytest.mark.parametrize("data", ["dapo", "math12k", "aime_1983_2023"])
@pytest.mark.parametrize("reward", ["majority", "ground_truth"])
def test_every_cell_of_the_first_version(model: str, data: str, reward: str, matrix: Config) -> None:
    size = "_14b" if model == "qwen3_14b_base" else ""
    short = {"dapo": "dapo", "math12k": "math12k", "aime_1983_2023": "aime"}[data]
    run = matrix.runs[f"{'srt' if reward == 'majority' else 'gt'}_{short}{size}"]
    assert (run.model, run.data, run.reward, run.curriculum) == (model, data, reward, None)
    train = run.train.resolved()
    assert run.seeds == [1, 2, 3] and run.init is None
    # reference §1.2; Appendix B.1
    assert (train.prompts_per_step, train.rollouts_per_prompt, train.temperature) == (16, 32, 1.0)
    assert (train.learning_rate, train.betas, train.weight_decay, train.grad_clip) == (1e-6, (0.9, 0.999), 0.01, 1.0)
    assert (train.kl_coefficient, train.kl_placement, train.kl_estimator, train.advantage) == (
        0.001, "reward", "k3", "rloo",
    )  # fmt: skip
    assert (train.max_prompt_tokens, train.max_new_tokens, train.preset) == (1024, 3072, "clean")
    epochs = {"dapo": 1, "math12k": 1, "aime_1983_2023": 10}[data]
    per_epoch = {"dapo": 17234 // 16, "math12k": 11998 // 16, "aime_1983_2023": 919 // 16}[data]
    assert run.steps >= epochs * per_epoch
    assert data != "dapo" or run.validation is not None


def test_the_other_runs_of_the_first_version(matrix: Config) -> None:
    runs = matrix.runs
    assert runs["srt_dapo"].steps == 1200  # Table 1
    for name in ("srt_dapo", "gt_dapo"):
        twin = runs[f"{name}_authors"]
        assert twin.train.preset == "authors" and twin.train.resolved().entropy_coefficient == 0.001
        assert twin.model_copy(update={"label": runs[name].label, "train": runs[name].train}) == runs[name]
    assert runs["srt_dapo_offline"].reward == "offline_labels"
    assert matrix.teacher("srt_dapo_offline-s2") == "base/qwen2_5_math_7b"
    for suffix in ("", "_14b"):
        for by, name in (("pass_rate", "pass_rate"), ("majority_frequency", "majority")):
            easy = runs[f"srt_dapo_easy_{name}{suffix}"]
            assert easy.curriculum is not None and easy.curriculum.by == by and easy.curriculum.fraction == 1 / 3
            assert easy.steps >= 3 * (17234 // 3 // 16) and matrix.ranking_model(easy) == "qwen2_5_math_7b"
    assert {runs[f"ttt_{test}"].data for test in ("aime24", "aime25", "amc23")} == {"aime24", "aime25", "amc23"}


def test_the_second_version_climbs_levels_from_one_checkpoint_to_the_next(matrix: Config) -> None:
    runs = matrix.runs
    levels = ["gt_knights_2", "srt_knights_3", "srt_knights_5", "srt_knights_7", "srt_knights_9"]
    assert lineage(runs, "srt_knights_9") == levels
    assert [matrix.datasets[runs[r].data].params["n_people"] for r in levels] == [2, 3, 5, 7, 9]
    assert lineage(runs, "srt_bitwise_4") == ["gt_bitwise_2", "srt_bitwise_3", "srt_bitwise_4"]
    assert runs["gt_bitwise_2"].steps == 950
    for name, run in runs.items():
        if run.model != "qwen3_4b_base":
            continue
        train = run.train.resolved()
        assert (train.advantage, train.kl_placement, train.kl_coefficient, train.learning_rate) == (
            "group_std", "loss", 1e-4, 1e-6,
        )  # fmt: skip
        assert run.reward == "ground_truth" if run.init is None else run.reward != "ground_truth", name
        # test sets have the trained level and other problems; 16 responses per test problem, 32 per training problem
        (suite,) = run.suites
        (test,) = matrix.suites[suite].datasets
        assert matrix.sampling_settings(run.model, suite).n == 16 and train.rollouts_per_prompt == 32
        one, other = matrix.datasets[run.data], matrix.datasets[test]
        assert (one.params, one.split, other.split) == (other.params, "train", "test"), name
    for task, level, start in (("bitwise", 3, 2), ("family", 5, 4), ("knights", 7, 2)):
        teacher = runs[f"teacher_{task}_{level}"]
        assert teacher.reward == "offline_labels" and teacher.init is not None
        assert matrix.teacher(f"teacher_{task}_{level}-s3").startswith(f"gt_{task}_{start}-s3/step-")


def test_models_of_the_second_version_have_their_own_sampling(matrix: Config) -> None:
    assert matrix.sampling_settings("llama3_1_8b_instruct").temperature == 0
    assert matrix.sampling_settings("deepseek_math_7b_instruct").temperature == 0.7
    assert matrix.sampling_settings("qwen3_14b_base") == matrix.sampling
    assert {run.train.learning_rate for run in matrix.runs.values() if "llama" in run.model} == {1e-7, 3e-7}
    assert json.loads(sample_spec(matrix, "llama3_1_8b_instruct"))["temperature"] == 0


def test_the_online_curriculum_is_srt_on_dapo_with_refilled_batches(matrix: Config) -> None:
    plain, refilled = matrix.runs["srt_dapo"], matrix.runs["srt_dapo_refill"]
    assert refilled.refill is not None and refilled.refill.majority == 0.6
    assert (refilled.train, refilled.data, refilled.model, refilled.reward) == (
        plain.train, plain.data, plain.model, "majority",
    )  # fmt: skip
    one, other = (json.loads(train_spec(matrix, f"{name}-s1")) for name in ("srt_dapo", "srt_dapo_refill"))
    assert {key for key in one | other if one.get(key) != other.get(key)} == {"run", "refill"}
    dag = build(matrix)
    cheap, dear = (
        Pricing(matrix, dag).predicted(dag.jobs[f"train {name}-s1/step-200"]).seconds
        for name in ("srt_dapo", "srt_dapo_refill")
    )
    assert 1.2 * cheap < dear < 2.5 * cheap  # 2.4 times the rollouts


def test_decoding_temperatures_of_one_checkpoint(matrix: Config) -> None:
    figure = matrix.figures["v2_fig16"]
    sampled = [matrix.sampling_settings("qwen2_5_math_7b", str(panel.suite)) for panel in figure.panels]
    assert [(s.temperature, s.n) for s in sampled] == [(0.0, 1), (0.3, 32), (0.6, 32), (1.0, 32)]
    files = resolve_figure(matrix, "v2_fig16")[1]
    assert len(files) == 4 * 7  # on each suite: the base model, and three seeds of two runs at one step
    assert {Path(f).parent.name for f in files} == {"qwen2_5_math_7b", "step-750"}


def test_every_model_is_pinned(matrix: Config) -> None:
    assert matrix.unpinned() == []


def test_one_seed_by_the_command_line() -> None:
    one = full(seeds=1)
    assert {tuple(run.seeds) for run in one.runs.values()} == {(1,)}
    assert full(seeds="2").runs["srt_dapo"].seeds == [1, 2]


def test_specs_fit_a_command_line(matrix: Config) -> None:
    assert len(json.dumps(evaluation_spec(matrix))) < 100_000  # Linux: 131,072 bytes per argument
    assert expand_evaluations(json.loads(json.dumps(evaluation_spec(matrix)))) == evaluations(matrix)


# -- features, on a small configuration -------------------------------------------------------------------------------

SRT_MORE = "more: {extends: srt, init: {run: srt}, curriculum: null, label: More}\n"


def with_runs(folder: Path, *entries: str) -> Config:
    write(folder)
    with open(folder / RUNS, "a", encoding="utf-8") as handle:
        handle.write("".join(entries))
    return load(folder)


def test_a_run_starts_where_another_of_its_seed_ended(tmp_path: Path) -> None:
    config = with_runs(tmp_path, SRT_MORE, "pinned: {extends: more, init: {run: srt, step: 6}, seeds: [2]}\n")
    assert config.start("more-s2") == "srt-s2/step-12" and config.start("pinned-s2") == "srt-s2/step-6"
    assert config.start("srt-s1") == "base/tiny"
    assert json.loads(train_spec(config, "more-s2"))["init"] == "srt-s2/step-12"
    first = next(row for row in evaluations(config) if row["run"] == "more-s2")
    assert first["step"] == 0 and first["groups"][0] == "results/test/eval/srt-s2/step-12/tests.groups.parquet"


def test_extending_a_run_moves_who_starts_from_its_end_but_not_who_names_a_step(tmp_path: Path) -> None:
    entries = (SRT_MORE, "pinned: {extends: more, init: {run: srt, step: 12}}\n")
    before = with_runs(tmp_path, *entries)
    change(tmp_path, RUNS, "seeds: [1, 2]\n  steps: 12", "seeds: [1, 2]\n  steps: 18")
    after = load(tmp_path)
    changed = {i for i in ("srt-s1", "more-s1", "pinned-s1") if train_spec(before, i) != train_spec(after, i)}
    assert changed == {"more-s1"}


def test_a_teacher_is_the_start_unless_it_is_named(tmp_path: Path) -> None:
    config = with_runs(
        tmp_path,
        SRT_MORE,
        "taught: {extends: more, method: offline, reward: offline_labels, label: T}\n",
        "by_other: {extends: taught, init: null, teacher: {run: srt, step: 6}, label: O}\n",
        "by_base: {extends: taught, init: null, label: B}\n",
    )
    assert config.teacher("taught-s2") == "srt-s2/step-12" and config.teacher("by_other-s1") == "srt-s1/step-6"
    assert config.teacher("by_base-s1") == "base/tiny" and "teacher" not in json.loads(train_spec(config, "by_base-s1"))
    assert json.loads(train_spec(config, "by_other-s1"))["teacher"] == "srt-s1/step-6"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (
            "a: {extends: srt, init: {run: b}}\nb: {extends: srt, init: {run: c}}\nc: {extends: srt, init: {run: a}}\n",
            "runs.yaml: c: init: run: the runs depend on each other (a -> b -> c -> a)",
        ),
        (
            "a: {extends: srt, reward: offline_labels, teacher: {run: b}}\nb: {extends: srt, init: {run: a}}\n",
            "runs.yaml: b: init: run: the runs depend on each other (a -> b -> a)",
        ),
        (
            "a: {extends: srt, model: hub7b, init: {run: srt}}\n",
            "runs.yaml: a: init: run: run 'srt' trains model 'tiny' and this one 'hub7b': set both to the same",
        ),
        (
            "a: {extends: b}\nb: {extends: a}\n",
            "runs.yaml: b: extends: the entries extend each other (a -> b -> a)",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(entries: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SrtError) as caught:
        with_runs(tmp_path, entries)
    assert str(caught.value).startswith(expected)


def test_extends_merges_train_key_by_key_and_templates_are_no_runs(tmp_path: Path) -> None:
    config = with_runs(
        tmp_path,
        "_base: {train: {kl_coefficient: 0.5, learning_rate: 1.0e-3}}\n",
        "child: {extends: grandchild, train: {kl_clamp: 3}}\n",
        "grandchild: {extends: _base, label: G, method: srt, model: tiny, data: sums, reward: majority, steps: 6, "
        "segment: 6, suites: [tests], train: {kl_coefficient: 0.25}}\n",
    )
    assert "_base" not in config.runs
    train = config.runs["child"].train
    assert (train.kl_coefficient, train.learning_rate, train.kl_clamp, train.max_new_tokens) == (0.25, 1e-3, 3.0, 60)


def test_seeds_of_the_main_file_are_those_of_runs_without_a_list(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "save_every: 5", "save_every: 5\nseeds: 3")
    config = load(tmp_path)
    assert config.instances("gt") == ["gt-s1", "gt-s2", "gt-s3"] and config.instances("srt") == ["srt-s1", "srt-s2"]


def test_sections_in_several_files(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, MAIN, "runs: runs.yaml", "runs: [runs.yaml, more.yaml]")
    (tmp_path / "more.yaml").write_text("other: {extends: srt, label: Other, steps: 5}\n")
    with pytest.raises(SrtError, match=r"^more.yaml: other: steps \(5\) must be a multiple of segment \(6\)"):
        load(tmp_path)
    (tmp_path / "more.yaml").write_text("other: {extends: srt, label: Other, steps: 18}\n")
    assert load(tmp_path).runs["other"].seeds == [1, 2]


@pytest.mark.parametrize(
    ("part", "fraction", "fits"), [("train", 0.25, True), ("heldout", 0.25, False), ("train", 0.5, False)]
)
def test_a_validation_set_is_really_held_out(part: str, fraction: float, fits: bool, tmp_path: Path) -> None:
    write(tmp_path)
    with open(tmp_path / DATASETS, "a", encoding="utf-8") as handle:
        handle.write(f"all: {{source: local, path: more.jsonl, holdout_fraction: {fraction}, part: {part}}}\n")
    change(tmp_path, DATASETS, "path: more.jsonl\n", "path: more.jsonl\n  holdout_fraction: 0.25\n  part: heldout\n")
    change(
        tmp_path,
        RUNS,
        "data: sums\n  reward: majority",
        "data: all\n  reward: majority\n  validation: {dataset: more_test}",
    )
    if fits:
        assert load(tmp_path).runs["srt"].validation is not None
        return
    with pytest.raises(SrtError, match=r"runs.yaml: srt: validation: dataset: 'more_test' is not held out of 'all'"):
        load(tmp_path)


def every_spec(config: Config) -> dict[str, str]:
    return {
        **{f"data {name}": data_spec(config, name) for name in config.datasets},
        **{f"model {name}": model_spec(config, name) for name in config.models},
        **{f"sample {name}": sample_spec(config, name) for name in config.models},
        **{f"train {i}": train_spec(config, i) for run in config.runs for i in config.instances(run)},
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        # every optional key at its default
        (RUNS, "reward: majority", "reward: majority\n  init: null\n  teacher: null\n  validation: null", set()),
        (RUNS, "by: pass_rate", "by: pass_rate, model: null", set()),
        (MODELS, "repo: Qwen", "unpinned: null\n  sampling: null\n  repo: Qwen", set()),
        (MODELS, "repo: Qwen", "sampling: {}\n  repo: Qwen", set()),
        (DATASETS, "more.jsonl", "more.jsonl\n  ranges: {}\n  on_duplicate_problem: keep", set()),
        # keys that cannot change results
        (RUNS, "reward: majority", "reward: majority\n  validation: {dataset: more_test}", set()),
        # keys that can
        (RUNS, "by: pass_rate", "by: pass_rate, model: hub7b", {"train srt-s1", "train srt-s2"}),
        (MODELS, "repo: Qwen", "sampling: {temperature: 0}\n  repo: Qwen", {"sample hub7b"}),
        (DATASETS, "more.jsonl", "more.jsonl\n  ranges: {rate: [0, 1]}", {"data more_test"}),
    ],
)  # fmt: skip
def test_what_changes_which_specs(file: str, old: str, new: str, expected: set[str], tmp_path: Path) -> None:
    write(tmp_path)
    before = every_spec(load(tmp_path))
    change(tmp_path, file, old, new)
    after = every_spec(load(tmp_path))
    assert {name for name in before | after if before.get(name) != after.get(name)} == expected


def test_an_unpinned_revision_is_said(tmp_path: Path) -> None:
    write(tmp_path)
    change(
        tmp_path, MODELS, "revision: b101308fe89651ea5ce025f25317fea6fc07e96e", "revision: main\n  unpinned: none yet"
    )
    assert load(tmp_path).unpinned() == [
        "models: hub7b: revision 'main' is not pinned (none yet): another download may differ"
    ]


def test_ranges_keep_numbers_within_them_and_nothing_else() -> None:
    from srt.config.datasets import parse_dataset

    rows = [
        {"problem": f"p{i}", "answer": "1", "rate": rate} for i, rate in enumerate([0.3, 0.29, None, True, "0.5", 0.7])
    ]
    entry = {"source": "local", "path": "x.jsonl", "ranges": {"rate": [0.3, 0.7]}}
    picked = select_rows(parse_dataset("x", entry), "x", "x", ["problem", "answer", "rate"], rows)
    assert [row["problem"] for row in picked.rows] == ["p0", "p5"] and picked.counts["filtered"] == 2
    with pytest.raises(SrtError, match="no row has a number from 2 to 3 in rate: widen `ranges`"):
        select_rows(parse_dataset("x", entry | {"ranges": {"rate": [2, 3]}}), "x", "x", list(rows[0]), rows)
    with pytest.raises(SrtError, match=r"lacks the column 'rat' of `ranges`.*did you mean 'rate'"):
        select_rows(parse_dataset("x", entry | {"ranges": {"rat": [2, 3]}}), "x", "x", list(rows[0]), rows)
