"""A user's own functions: the examples of docs/own_code.md run, their hash is in specs, labels are not handed out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from srt.answers import Grader
from srt.artefacts.specs import data_content, data_spec, grading_spec, sample_spec, train_spec
from srt.artefacts.training_inputs import method_inputs
from srt.common.errors import SrtError
from srt.common.io import read_parquet, write_parquet
from srt.common.own_code import load as load_function
from srt.config import Config
from srt.config.datasets import parse_dataset
from srt.data import load as load_table
from srt.data.prompts import render_all
from srt.models.loading import read_tokenizer
from srt.rewards.own_reward import own_reward
from srt.training.run import run_segment
from srt.training.training_set import join_metrics, read_training_set
from support import ROOT
from support.config_files import change, load, specs, write
from support.dag import jobs, snakemake
from support.specs import train_spec as plain_spec
from support.training import segment

BLOCKS = re.findall(r"```(\w+)\n# ([\w.]+)\n(.*?)```", (ROOT / "docs/own_code.md").read_text(encoding="utf-8"), re.S)
MODULES = {name: text for kind, name, text in BLOCKS if kind == "python"}
TEXTS = ["so \\boxed{7}", "\\boxed{14/2}", "\\boxed{8} after many words", "none"]


def entries(file: str) -> dict:
    """What the page's examples write into a configuration file."""
    return {
        k: v for kind, name, text in BLOCKS if (kind, name) == ("yaml", file) for k, v in yaml.safe_load(text).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small configuration of the tests, with the entries and the modules of the page."""
    write(tmp_path)
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for file, ours in (("experiments.yaml", "runs.yaml"), ("datasets.yaml", "datasets.yaml")):
        with (tmp_path / ours).open("a", encoding="utf-8") as out:
            out.write(yaml.safe_dump(entries(file), sort_keys=False))
    change(tmp_path, "models.yaml", "hub7b:\n", f"hub7b:\n  prompt: {entries('models.yaml')['tiny']['prompt']}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/options.txt").write_text("Which?\n(A) 1 (B) 2\n3, 1\n\nWhat is 1 + 1?\n2\n", encoding="utf-8")
    (tmp_path / "data/more.jsonl").write_text('{"problem": "1", "answer": "1"}\n', encoding="utf-8")
    return tmp_path


def all_specs(config: Config) -> dict[str, str]:
    more = {f"content {name}": data_content(config, name) for name in config.datasets}
    more |= {f"grade {name}": grading_spec(config, name) for name in config.datasets}
    return specs(config) | more


@pytest.mark.parametrize(
    ("file", "depend"),
    [
        ("my_rewards.py", {"train short-s1", "train halves-s1"}),
        ("my_grader.py", {"grade options"}),
        ("my_reader.py", {"content options"}),
        ("my_prompt.py", {"sample hub7b"}),
    ],
)
def test_a_changed_file_repeats_what_depends_on_it(file: str, depend: set[str], folder: Path) -> None:
    before = all_specs(load(folder))
    with (folder / file).open("a", encoding="utf-8") as out:
        out.write("\n# another line\n")
    after = all_specs(load(folder))
    assert {name for name in before if before[name] != after[name]} == depend


def test_a_changed_extractor_grades_and_trains_again_and_samples_nothing(folder: Path) -> None:
    change(folder, "main.yaml", "preset: clean", f"extractor: {entries('main.yaml')['scoring']['extractor']}")
    before = all_specs(load(folder))
    with (folder / "my_grader.py").open("a", encoding="utf-8") as out:
        out.write("\n# another line\n")
    after = all_specs(load(folder))
    changed = {name.split()[0] for name in before if before[name] != after[name]}
    assert changed == {"grade", "train"}
    assert all(before[name] != after[name] for name in before if name.startswith("grade"))


def test_specs_have_the_hash_and_no_path(folder: Path) -> None:
    config = load(folder)
    spec = json.loads(train_spec(config, "halves-s1"))
    assert re.fullmatch(r"my_rewards:true_answer_halves@[0-9a-f]{64}", spec["reward"])
    assert spec["reward_labels"] == "ground_truth" and "prompt" not in spec and "own_tasks" not in spec
    assert "my_prompt:asked_twice@" in sample_spec(config, "hub7b")
    assert "--own-tasks my_grader:as_set@" in grading_spec(config, "options")
    assert "@" not in data_spec(config, "options")
    assert not any(str(folder) in text for text in all_specs(config).values())


# -- each kind runs ------------------------------------------------------------------------------------------------


def test_the_label_free_reward_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    reward = own_reward("my_rewards:short_majority", None)
    given = reward(Grader(), [TEXTS], None, ["math"], ["3 + 4"])
    longest = len(TEXTS[2])
    wanted = [1 - 0.5 * len(TEXTS[0]) / longest, 1 - 0.5 * len(TEXTS[1]) / longest, 0, 0]  # 14/2 is 7
    assert given.rewards.tolist() == [wanted] and given.labelled.all() and given.pseudo_labels == ["7"]
    with pytest.raises(ValueError, match="must not be given labels"):
        reward(Grader(), [TEXTS], ["7"], ["math"], ["3 + 4"])


def test_the_page_s_test_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    found: dict = {}
    exec(MODULES["test_my_rewards.py"], found)
    try:
        found["test_golden_numbers"]()
    finally:
        sys.modules.pop("my_rewards", None)


def test_the_reward_with_labels_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    reward = own_reward("my_rewards:true_answer_halves", "ground_truth")
    assert reward(Grader(), [TEXTS], ["8"], ["math"], ["3 + 4"]).rewards.tolist() == [[0.5, 0.5, 1, 0]]
    with pytest.raises(ValueError, match="needs labels"):
        reward(Grader(), [TEXTS], None, ["math"], ["3 + 4"])


@pytest.mark.parametrize(("run", "labels"), [("short-s1", None), ("halves-s1", "ground_truth")])
def test_a_run_trains_on_it(
    run: str, labels: str | None, folder: Path, tiny_base: Path, sums: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = json.loads(train_spec(load(folder), run))
    monkeypatch.setenv("SRT_CODE", str(folder))
    data, truth = read_training_set(sums, spec["reward"], reward_labels=spec.get("reward_labels"))
    assert data.labels == (truth if labels else None) and truth
    spec |= {"train": plain_spec()["train"]}
    made = segment(folder, tiny_base, spec, 0, 1)
    run_segment(made, data, truth)
    frame, _ = join_metrics([made.metrics_out])
    assert 0 <= frame["reward"].iloc[0] <= 1 and np.isfinite(frame["loss"].iloc[0])


def test_a_file_that_changed_since_the_plan_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_CODE", str(folder))
    planned = json.loads(train_spec(load(folder), "short-s1"))["reward"]
    (folder / "my_rewards.py").write_text("def short_majority(answers):\n    return [1.0] * len(answers)\n")
    with pytest.raises(
        SrtError, match=r"my_rewards\.py changed after the workflow was planned: start the workflow again"
    ):
        own_reward(planned, None)


def test_a_teacher_s_labels_come_from_its_table(folder: Path, tmp_path: Path, sums: Path) -> None:
    change(folder, "runs.yaml", "reward_labels: ground_truth", "reward_labels: offline_labels")
    config = load(folder)
    assert "labels/base/tiny/sums" in method_inputs(config, "halves-s1")["labels"]
    assert "labels" not in method_inputs(config, "short-s1")
    table = tmp_path / "labels.parquet"
    ids = read_parquet(sums).column("id").to_pylist()
    write_parquet(table, pa.table({"problem_id": ids, "label": ["1"] * len(ids)}))
    data, _ = read_training_set(sums, "a:f", labels=table, reward_labels="offline_labels")
    assert set(data.labels.values()) == {"1"}
    with pytest.raises(SrtError, match="must not be given labels"):
        read_training_set(sums, "a:f", labels=table)


def test_the_grader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_CODE", str(folder))
    grader = Grader(extractor="my_grader:last_option", own_tasks=["my_grader:as_set"])
    (vote,) = grader.vote([["it is (B)", "(A), no, (B).", "12", "?"]])
    assert (vote.majority, vote.count, vote.parsed) == ("B", 2, 3)
    boxes = Grader(own_tasks=load(folder).own_tasks("options"))
    (vote,) = boxes.vote([["\\boxed{3, 1}", "\\boxed{1,3}", "\\boxed{,}", "\\boxed{2}"]], tasks=["my_grader:as_set"])
    assert (vote.count, vote.classes[2]) == (2, -1)
    (found,) = boxes.verify([["\\boxed{1, 3}", "\\boxed{13}"]], ["3,1"], tasks=["my_grader:as_set"])
    assert [verdict.correct for verdict in found] == [True, False]


def test_the_reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_CODE", str(folder))
    table = load_table(parse_dataset("options", entries("datasets.yaml")["options"]), "options", folder / "data")
    rows = table.select(["problem", "answer", "task"]).to_pylist()
    assert rows[0] == {"problem": "Which?\n(A) 1 (B) 2", "answer": "3, 1", "task": "my_grader:as_set"}
    assert rows[1]["answer"] == "2" and len(rows) == 2


def test_the_prompt(folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_CODE", str(folder))
    tokenizer = read_tokenizer(tiny_base, "tiny")
    own, plain = (
        render_all(tokenizer, ["a"], ["1 + 2 ="], " Go.", 90, name)[0][0] for name in ("my_prompt:asked_twice", None)
    )
    assert tokenizer.decode(own).replace(" ", "").count("1+2=") == 2
    assert tokenizer.decode(plain).replace(" ", "").count("1+2=") == 1


@pytest.mark.slow
def test_the_workflow_s_jobs_find_it_and_notice_a_change(folder: Path) -> None:
    config = ["--configfile", str(folder / "main.yaml")]
    words = ["-s", str(ROOT / "Snakefile"), "--profile", str(ROOT / "workflow/profiles/local"), *config, "--cores", "1"]
    table = "results/test/data/options.parquet"
    snakemake(folder, *words, "--", table)
    assert read_parquet(folder / table).column("answer").to_pylist() == ["3, 1", "2"]
    (folder / "my_rewards.py").write_text(MODULES["my_rewards.py"] + "\n# changed\n", encoding="utf-8")
    assert "Nothing to be done" in snakemake(folder, *words, "-n", "--", table)
    (folder / "my_reader.py").write_text(MODULES["my_reader.py"] + "\n# changed\n", encoding="utf-8")
    assert jobs(snakemake(folder, *words, "-n", "--", table)) == {"data": 1, "total": 1}


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(answers):\n    pass\n", "has no function 'short_majority'"),
        ("def short_majority(answers):\n    return (\n", "line 2: '(' was never closed: correct it"),
        ("def short_majority(responses, truth):\n    pass\n", "parameter 'truth' is not of responses, answers"),
        ("def short_majority(*all):\n    pass\n", "must name each of its parameters"),
        ("def short_majority():\n    pass\n", "it has no parameter: take one"),
        ("from . import a\ndef short_majority(answers):\n    pass\n", "line 1: imports ., whose changes"),
        ("import my_grader\ndef short_majority(answers):\n    pass\n", "imports my_grader, whose changes would not"),
        (
            "def short_majority(answers, label):\n    pass\n",
            "runs.yaml: short: reward: my_rewards:short_majority asks for label, and this run gives none: set "
            "reward_labels to ground_truth or offline_labels, or remove the parameter",
        ),
    ],
)
def test_a_wrong_function_is_refused_when_the_configuration_is_read(text: str, message: str, folder: Path) -> None:
    rest = "\n\ndef true_answer_halves(answers, label):\n    pass\n"
    (folder / "my_rewards.py").write_text(text if "never closed" in message else text + rest, encoding="utf-8")
    with pytest.raises(SrtError) as caught:
        load(folder)
    assert message in str(caught.value) and str(caught.value).startswith("runs.yaml: short: reward: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("my_rewards:short_majority", "my_reward:short_majority", "my_reward.py is neither beside the configuration"),
        ("my_rewards:short_majority", "majorty", "unknown value 'majorty' (did you mean 'majority'?)"),
        ("reward_labels: ground_truth", "label: x", "reward: my_rewards:true_answer_halves asks for label"),
        ("my_rewards:true_answer_halves", "my_rewards:short_majority", "has no parameter label and must not be given"),
        ("reward: my_rewards:true_answer_halves", "reward: majority", "reward_labels: reward majority has its labels"),
    ],
)
def test_a_wrong_reference_is_refused(old: str, new: str, message: str, folder: Path) -> None:
    file = folder / "runs.yaml"
    text = file.read_text(encoding="utf-8").replace(
        "  label: Halves\n", "" if new.startswith("label") else "  label: H\n"
    )
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(SrtError, match=re.escape(message)):
        load(folder)


def test_data_without_answers_fits_only_a_reward_without_labels(folder: Path) -> None:
    file = folder / "runs.yaml"
    for name in ("short", "halves"):
        text = file.read_text(encoding="utf-8")
        begin = text.index(f"\n{name}:")
        file.write_text(text[:begin] + text[begin:].replace("data: sums", "data: bare", 1), encoding="utf-8")
    with (folder / "datasets.yaml").open("a", encoding="utf-8") as out:
        out.write("bare: {source: local, path: more.jsonl, columns: {answer: null}}\n")
    with pytest.raises(SrtError, match="halves: data: reward my_rewards:true_answer_halves needs true answers"):
        load(folder)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "must return 4 finite numbers, one per response; for the problem '3 \\+ 4' it returned"),
        ("return [float('nan')] * 4", "must return 4 finite numbers"),
        ("return None", "must return 4 finite numbers"),
        ("return 1 / 0", r"failed: ZeroDivisionError: division by zero \(my_rewards.py, line 2\)"),
    ],
)
def test_what_a_reward_returns_is_checked(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRT_CODE", str(tmp_path))
    (tmp_path / "my_rewards.py").write_text(f"def f(answers):\n    {body}\n", encoding="utf-8")
    with pytest.raises(SrtError, match=message):
        own_reward("my_rewards:f", None)(Grader(), [TEXTS], None, ["math"], ["3 + 4"])


def test_a_module_that_fails_or_returns_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_CODE", str(tmp_path))
    (tmp_path / "broken.py").write_text("import no_such_package\ndef f(answer):\n    pass\n", encoding="utf-8")
    with pytest.raises(SrtError, match=r"cannot be imported: ModuleNotFoundError.*broken.py, line 1"):
        load_function("task", "broken:f")
    (tmp_path / "number.py").write_text("def f(response):\n    return 7\n", encoding="utf-8")
    with pytest.raises(SrtError, match="number:f returned 7: return text, or None"):
        Grader(extractor="number:f").vote([["x"]])
