"""`srt`: one screen of help, commands that start fast, and what each of them prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from srt.cli.__main__ import COMMANDS, dispatch
from srt.common.errors import SrtError
from srt.common.io import write_parquet
from support import ROOT
from support.commands import srt
from support.imported_rollouts import ROLLOUTS

MICRO = ("--configfile", "tests/micro/config.yaml")


def test_help_fits_a_screen_and_names_every_command(capsys):
    assert dispatch(["--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 110
    assert re.findall(r"^  ([\w-]+) +\w", text, re.MULTILINE) == list(COMMANDS)
    files = {path.stem.replace("_", "-") for path in (ROOT / "src/srt/cli").glob("[a-z]*.py")} - {"shared"}
    assert files == set(COMMANDS)
    assert dispatch([]) == 2 and capsys.readouterr().out == text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_fits_a_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        dispatch([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: srt {name} ")
    assert len(lines) <= 24 and max(len(line) for line in lines if not line.startswith("srt ")) <= 80


def test_a_wrong_command_has_a_suggestion():
    with pytest.raises(SrtError, match=r"srt has no command 'sumary' \(did you mean 'summary'\?\): srt --help"):
        dispatch(["sumary"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("plan --seeds x", "srt plan: argument --seeds: invalid int value: 'x': srt plan --help explains the options"),
        ("watch --cores 2", "srt watch: the following arguments are required: command: srt watch --help"),
        ("watch --cores 2 -- no_such_program", "no_such_program cannot be run as a program: correct the command"),
        ("watch --cores 2 --every 0 -- true", "--every must be more than 0 seconds"),
        ("plan --resolved config.json --seeds 2", "--seeds has no effect on --resolved"),
        ("claims", r"tables that the claims read are not made, such as results/full/.*, or add --partial"),
    ],
)
def test_a_wrong_argument_is_one_sentence(argv, message, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SrtError, match=message) as error:
        dispatch(argv.split())
    assert "\n" not in str(error.value)


def test_in_another_folder_a_command_says_where_to_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SrtError, match=f"config/config.yaml does not exist below {tmp_path}: run the command in the repo"
    ):
        dispatch(["plan"])


def test_help_imports_no_library():
    code = "import sys; from srt.cli.__main__ import dispatch; dispatch(['--help']); print(sorted(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"pandas", "numpy", "pydantic", "yaml", "torch", "snakemake"} & set(re.findall(r"'(\w+)'", done.stdout))


def test_a_closed_pipe_is_no_error():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    line = f"{sys.executable} -m srt.cli plan --configfile tests/micro/config.yaml | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of a clone that `srt check` reads, with the micro configuration."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tests/micro", tmp_path / "tests/micro")
    return tmp_path


def change(folder: Path, name: str, **entries: object) -> None:
    """Put entries into a YAML file of the micro configuration."""
    path = folder / "tests/micro" / name
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | entries))


def test_check_finds_nothing_wrong(clone):
    lines = srt("check", *MICRO, folder=clone).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", topic] for topic in ("python", "packages", "data", "models", "results", "space", "gpus")
    ]


def test_check_names_everything_that_is_wrong(clone):
    constraints = clone / "constraints.txt"
    constraints.write_text(re.sub(r"(?m)^pyarrow==.*$", "pyarrow==1.0.0", constraints.read_text()))
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"psutil>=', '"no-such-package>='))
    change(clone, "datasets.yaml", mine={"source": "local", "path": "mine.parquet"})
    change(clone, "models.yaml", own={"source": "local", "path": "own"})
    change(clone, "config.yaml", results="/proc/x")
    output = srt("check", *MICRO, folder=clone, code=1).stdout
    errors = [" ".join(line.split()) for line in output.splitlines() if line.startswith("ERROR")]
    assert errors[0] == "ERROR packages no-such-package is not installed: run make setup"
    assert re.fullmatch(r"ERROR packages pyarrow is \S+, constraints.txt pins 1.0.0: run make setup", errors[1])
    assert errors[2] == "ERROR data mine: mine.parquet does not exist: put it there, or set local_dir"
    assert errors[3] == "ERROR models own: own/config.json does not exist: correct its path"
    assert re.fullmatch(r"ERROR results /proc/x: /proc cannot be written \(.*\): change the key results", errors[4])
    assert errors[5].startswith("ERROR space about ") and len(errors) == 6  # /proc has no space


def test_what_is_made_needs_no_source(clone):
    change(clone, "datasets.yaml", mine={"source": "local", "path": "mine.parquet"})
    change(clone, "models.yaml", own={"source": "local", "path": "own"})
    write_parquet(clone / "results/micro/data/mine.parquet", pd.DataFrame({"id": ["a"]}))
    (clone / "results/micro/models/own").mkdir(parents=True)
    srt("check", *MICRO, folder=clone)


# -- prompt ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prompt_shows_text_and_tokens(tiny_base, sums):
    from transformers import AutoTokenizer

    from srt.data import read_problems
    from srt.data.prompts import render

    row = read_problems(sums).to_pylist()[3]
    ids = render(AutoTokenizer.from_pretrained(tiny_base), row["problem"], " Go.")
    output = srt("prompt", tiny_base, sums, "--problem", row["id"], "--suffix", " Go.").stdout
    assert f"{row['problem']} Go." in output and f"\n{len(ids)} tokens:\n" in output
    assert [int(token) for token in re.findall(r"^ +(\d+)  '", output, re.MULTILINE)] == ids
    assert "WARNING" not in output


@pytest.mark.slow
def test_prompt_points_out_a_doubled_bos(tiny_base, sums, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(tiny_base, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "model")
    output = srt("prompt", tmp_path / "model", sums).stdout
    assert f"WARNING: the prompt begins with {tokenizer.bos_token!r} ({tokenizer.bos_token_id}) twice" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mikro", "sums"), "no model 'mikro' (did you mean 'micro'?), and no such folder"),
        (("micro", "sum"), "no data set 'sum' (did you mean 'sums'?), and no such file"),
        (
            ("micro", "sums"),
            "results/micro/models/micro holds no model: name another folder, or make it",
        ),
    ],
)
def test_prompt_says_what_is_missing(clone, words, message):
    assert message in srt("prompt", *words, *MICRO, folder=clone, code=2).stderr


# -- worth ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_worth_measures_the_gap(tiny_base, sums, tmp_path):
    words = ("worth", tiny_base, sums, "--problems", "12", "--n", "8", "--max-new-tokens", "24")
    said = srt(*words, code=1).stdout
    assert said.startswith("12 problems, 8 responses each; shares with 95 % intervals over problems\n  avg@8 ")
    gap = re.search(r"^  gap +(\S+) \[(\S+), (\S+)\]", said, re.MULTILINE)
    avg, maj = (float(re.search(rf"^  {name}@8 +(\S+)", said, re.MULTILINE)[1]) for name in ("avg", "maj"))
    assert float(gap[1]) == pytest.approx(maj - avg, abs=1e-3) and float(gap[2]) <= float(gap[1]) <= float(gap[3])
    assert "worth self-training: gap " in said.splitlines()[-1]
    assert srt(*words, code=1).stdout == said, "the same problems and seeds each time"


@pytest.mark.parametrize(
    ("rates", "majorities", "last", "worth"),
    [
        (
            [0.5] * 20,
            [True] * 20,
            "not shown to be worth self-training: gap +0.500 [+0.500, +0.500] has no width",
            False,
        ),
        ([0.6, 0.5, 0.4, 0.7] * 5, [True] * 20, "worth self-training: gap +0.450 [+0.396, +0.504]", True),
        ([0.4, 0.5, 0.3, 0.2] * 5, [False] * 20, "not worth self-training: gap -0.350 ", False),
        (
            [0.4, 0.6] * 10,
            [False, True] * 10,
            "not shown to be worth self-training: gap +0.000 [-0.192, +0.192]",
            False,
        ),
    ],
)
def test_the_verdict_follows_the_interval(rates, majorities, last, worth):
    from srt.evaluation.worth import Worth

    groups = pd.DataFrame({"n": 10, "parsed": 4, "truncated": 3, "consistency_all": 0.5, "pass_rate": rates,
                           "majority_correct": majorities})  # fmt: skip
    found = Worth(groups)
    assert found.lines()[-1].startswith(last) and found.worth == worth
    assert "Only 40% of the responses have an answer" in found.lines()[-3]
    assert found.lines()[-2] == "30% of the responses are cut: raise --max-new-tokens (key max_new_tokens)."


def test_worth_prints_every_number_with_its_interval():
    """Eight responses to each of eight problems: 64 samples are enough for an answer."""
    from srt.evaluation.worth import Worth
    from srt.metrics.intervals import one_run_interval

    counts = {"parsed": [8, 8, 7, 8, 6, 8, 8, 5], "truncated": [0, 0, 1, 0, 2, 0, 0, 3]}
    groups = pd.DataFrame({
        "n": 8, **counts, "consistency_all": [1.0, 0.75, 0.5, 0.875, 0.5, 0.625, 1.0, 0.25],
        "pass_rate": [1.0, 0.75, 0.5, 0.875, 0.375, 0.625, 1.0, 0.0], "majority_correct": [True] * 7 + [None],
    })  # fmt: skip
    majority = groups["majority_correct"].eq(True).to_numpy(float)
    shares = {"avg@8": groups["pass_rate"], "maj@8": majority, "agreement": groups["consistency_all"],
              "answers": groups["parsed"] / 8, "cut": groups["truncated"] / 8}  # fmt: skip
    expected = {name: one_run_interval(values) for name, values in shares.items()}
    expected["gap"] = one_run_interval(majority - groups["pass_rate"], share=False)
    said = Worth(groups, "boxed_or_last_number").lines()
    assert said[0] == "8 problems, 8 responses each; shares with 95 % intervals over problems"
    shown = {line.split()[0]: [float(x) for x in re.findall(r"(?<= |\[)[+-]?\d\.\d+", line)] for line in said[1:7]}
    assert shown == {name: [round(x, 3) for x in found] for name, found in expected.items()}
    assert "a response has an answer (extractor boxed_or_last_number)" in said[5]
    assert said[7:] == ["worth self-training: gap {:+.3f} [{:+.3f}, {:+.3f}]".format(*expected["gap"])]


# -- runs that are made ---------------------------------------------------------------------------------------------


def test_summary(micro_run):
    output = srt("summary", *MICRO, folder=micro_run).stdout
    assert re.match(r"run +step +data set +avg@8 +maj@8 +gain over base \[95 %\]", output)
    assert re.search(r"^base model +0 +sums_test +0\.\d{3} +0\.\d{3}$", output, re.MULTILINE)
    assert re.search(r"^gt-s1 +4 +sums_test .* [+-]0\.\d{3} \[[+-]0\.\d{3}, [+-]0\.\d{3}\]$", output, re.MULTILINE)
    judged = srt("summary", *MICRO, "--require-gain", "gt-s1", "sums_test", folder=micro_run, code=1).stdout
    change = r"avg@8 on sums_test 0\.\d{3} -> 0\.\d{3} in 4 steps, gain ([+-]\S+ \[.*\])"
    told = re.fullmatch(rf"gt-s1 did NOT gain beyond the interval: {change}\n", judged)
    assert told and re.search(rf"^gt-s1 +4 +sums_test .* {re.escape(told[1])}$", output, re.MULTILINE)
    assert "has no row of run 'gt' on" in srt(
        "summary", *MICRO, "--require-gain", "gt", "sums_test", folder=micro_run, code=2
    ).stderr  # fmt: skip


def test_compare(micro_run):
    output = srt("compare", "gt-s1", "offline_easy-s1", *MICRO, folder=micro_run).stdout
    specs, metrics, evaluations = output.split("\n\n")
    assert re.search(r"^reward +'ground_truth' +'offline_labels'$", specs, re.MULTILINE)
    assert "train.learning_rate" not in specs and re.match(r"specs: \d+ of \d+ keys are equal; the others:\n", specs)
    root = micro_run / "results/micro"
    frames = [pd.read_parquet(root / f"runs/{name}/metrics.parquet") for name in ("gt-s1", "offline_easy-s1")]
    assert metrics.startswith("metrics at 2 common steps, 1 to 2:\n")
    row = next(line.split() for line in metrics.splitlines() if line.startswith("response_length "))
    means = [frame.query("step <= 2")["response_length"].mean() for frame in frames]
    assert row[1:3] == [f"{mean:.4g}" for mean in means]
    files = [root / f"eval/{name}/tests.groups.parquet" for name in ("gt-s1/step-4", "offline_easy-s1/step-2")]
    one, two = (pd.read_parquet(file).set_index("problem_id")["pass_rate"] for file in files)
    assert f" {(two - one).mean():+.3f} [" in evaluations.splitlines()[-1]


@pytest.mark.slow
def test_compare_refuses_unknown_and_equal_runs(clone):
    wrong = srt("compare", "gt-s1", "ofline_easy-s1", *MICRO, folder=clone, code=2).stderr
    assert "has no run 'ofline_easy-s1' (did you mean 'offline_easy-s1'?)" in wrong
    assert "name two different runs" in srt("compare", "gt-s1", "gt-s1", *MICRO, folder=clone, code=2).stderr
    nothing = srt("compare", "gt-s1", "offline_easy-s1", *MICRO, folder=clone).stdout
    assert "metrics: the two runs have no step in common" in nothing and "no scored problem in common" in nothing


# -- regrade --------------------------------------------------------------------------------------------------------


def test_regrade(tmp_path):
    write_parquet(tmp_path / "r.parquet", ROLLOUTS)
    words = ("r.parquet", "--map", "reference=truth", "by=who", "--extractor", "boxed_or_last_number")
    output = srt("regrade", *words, folder=tmp_path).stdout
    assert re.search(r"^all +m +2 +50\.0% +100\.0% +-50\.0 +1$", output, re.MULTILINE)
    assert "1 of 3 verdicts differ:\n  row 1 all m 1: reference '5', upstream read none (True), ours '6'" in output
    assert "lacks the column 'gold'" in srt("regrade", "r.parquet", folder=tmp_path, code=2).stderr
