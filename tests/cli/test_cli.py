"""The scripts as a person calls them: --help, one sentence per bad input, a full disk, Ctrl-C, no partial files."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from srt.common.io import read_parquet, write_parquet
from support import ROOT
from support.scripts import ENVIRONMENT, command, run
from support.specs import train_spec

SCRIPTS = sorted(p.name for p in (ROOT / "scripts").glob("[a-z]*.py"))
TINY = {
    "source": "tiny", "hidden_size": 32, "layers": 1, "intermediate_size": 64, "steps": 10**6, "batch_size": 4,
    "threads": 1, "parts": [{"params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}],
    "revision_of_code": 1,
}  # fmt: skip
SAMPLE = {
    "n": 2, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 40, "max_new_tokens": 8, "engine": "transformers",
    "dtype": "float32", "seed": 5, "threads": 1, "prompt_suffix": "",
}  # fmt: skip


def refused(result: subprocess.CompletedProcess, expected: str) -> None:
    """Exit code 2 and one line on stderr that says `expected`."""
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr and len(errors) == 1, result.stderr
    assert result.stderr.endswith(errors[0] + "\n") and re.search(expected, errors[0]), result.stderr


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(script):
    result = subprocess.run(command(script, help="")[:-1], env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0 and result.stderr == ""
    text = result.stdout
    for name in re.findall(r"^ {4}(\w+) {2,}", text, re.MULTILINE) if "{" in text.splitlines()[0] else ():
        own = [*command(script, help="")[:-2], name, "--help"]
        text += subprocess.run(own, env=ENVIRONMENT, capture_output=True, text=True, timeout=400).stdout
    source = (ROOT / "scripts" / script).read_text(encoding="utf-8")
    options = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source))
    assert options
    for option in options:
        assert re.search(rf"{option}\b", text), option
    described = re.findall(r"^  (--[\w-]+).*?(?=^  --|\Z)", text, re.M | re.S)
    assert options <= set(described)


@pytest.fixture
def tables(tmp_path) -> Path:
    """A folder with a groups table, a table of something else, a file that is no parquet."""
    folder = tmp_path / "in"
    folder.mkdir()
    groups = pd.DataFrame(
        {
            "dataset": "d", "problem_id": list("abc"), "majority": ["1", None, "3"], "n": 4, "parsed": [4, 0, 2],
            "majority_correct": [True, False, False], "consistency_all": [1.0, 0.0, 0.5],
            "pass_rate": [1.0, 0.0, 0.25], "mean_length": 5.0,
        }
    )  # fmt: skip
    write_parquet(folder / "groups.parquet", groups)
    write_parquet(folder / "other.parquet", pd.DataFrame({"a": [1]}))
    write_parquet(folder / "metrics.parquet", pd.DataFrame({"step": [1, 2], "reward": [0.1, 0.2]}), {"run": "r"})
    (folder / "text.parquet").write_text("not a table")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("labels.py", {"groups": "FILE"}),
        ("curriculum.py", {"groups": "FILE", "by": "pass_rate"}),
        ("join_metrics.py", {"segments": ["FILE"]}),
    ],
)  # fmt: skip
def test_tables_missing_foreign_broken_and_in_the_way(tmp_path, tables, script, options):
    def with_file(value: Any, name: str) -> Any:
        return json.loads(json.dumps(value).replace('"FILE"', json.dumps(str(tables / name))))

    good = "metrics.parquet" if script == "join_metrics.py" else "groups.parquet"
    for name, expected in (
        ("none.parquet", "none.parquet does not exist"),
        ("other.parquet", "other.parquet lacks the column"),
        ("text.parquet", "text.parquet is not a readable parquet file"),
    ):
        refused(run(script, **with_file(options, name), out=tmp_path / "out" / "x.parquet"), expected)
    assert listing(tmp_path) == sorted(["in", *(f"in/{p}" for p in listing(tables))])
    refused(
        run(script, **with_file(options, good), out=tables / "text.parquet" / "x.parquet"),
        "text.parquet, or a folder above it, is a file where a folder is needed",
    )
    result = run(script, **with_file(options, good), out=tmp_path / "out" / "x.parquet")
    assert result.returncode == 0, result.stderr
    assert "x.parquet" in listing(tmp_path / "out") and not [p for p in listing(tmp_path / "out") if "tmp" in p]


@pytest.mark.slow
def test_labels_and_curriculum_write_what_they_say(tmp_path, tables):
    result = run("labels.py", groups=tables / "groups.parquet", out=tmp_path / "labels")
    assert result.stdout == "2 labels, 1 problems without an answer, 0.500 of the labels are correct\n"
    result = run("curriculum.py", groups=tables / "groups.parquet", by="majority_frequency", out=tmp_path / "easy")
    assert result.stdout == "1 of 3 problems, majority_frequency from 1.000 to 1.000\n"
    assert read_parquet(tmp_path / "easy")["problem_id"].to_pylist() == ["a"]
    refused(
        run("curriculum.py", groups=tables / "groups.parquet", by="pass_rate", fraction=2, out=tmp_path / "x"),
        "fraction 2.0 must be above 0 and at most 1",
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("{", "--spec is not JSON"), ("[]", "--spec is a JSON list"), ("{}", "--spec lacks the key")],
)
@pytest.mark.parametrize("script", ["sample.py", "make_base.py", "results_table.py"])
def test_wrong_specs(tmp_path, script, spec, expected):
    options: dict[str, Any] = {"out": tmp_path / "x"}
    if script == "sample.py":
        options |= {"checkpoint": tmp_path, "problems": tmp_path}
    if script == "make_base.py":
        options["name"] = "m"
    words = [*command(script, **options), "--spec", spec]
    refused(subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=400), expected)
    assert listing(tmp_path) == []


def test_wrong_models(tmp_path):
    """Wrong entries and parameters are in test_tiny, in process."""
    local = {"source": "local", "path": str(tmp_path / "none")}
    refused(run("make_base.py", name="m", spec=local, out=tmp_path / "m"), "none has no config.json")
    assert listing(tmp_path) == []


def broken_models(base: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Folders that are not checkpoints, or are damaged."""
    found: dict[str, tuple[Path, str]] = {}
    for name, expected in (
        ("empty", "is not a model in Hugging Face format"),
        ("foreign", "srt.json does not exist"),
        ("torn", r"torn: model\.safetensors is damaged or cut short"),
        ("no_weights", r"no_weights has no \.safetensors file"),
        ("no_config", r"no_config: config\.json: model_type: transformers \S+ has no 'None'"),
    ):
        shutil.copytree(base, folder / name)
        found[name] = (folder / name, expected)
    (folder / "empty" / "config.json").unlink()
    (folder / "foreign" / "srt.json").unlink()
    weights = folder / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "no_weights" / "model.safetensors").unlink()
    (folder / "no_config" / "config.json").write_text("{}")
    return found


@pytest.mark.slow
def test_wrong_checkpoints_for_sample_and_train(tmp_path, tiny_base, sums, capsys):
    """Called in this process, since starting a script takes seconds; scripts only print what the library raises."""
    from srt.common.errors import SrtError
    from srt.models.checkpoint import load_model

    for folder, expected in broken_models(tiny_base, tmp_path).values():
        with pytest.raises(SrtError, match=expected) as caught:
            load_model(folder, "float32")
        assert "\n" not in str(caught.value)
    torn = tmp_path / "torn"
    refused(
        run("sample.py", spec=SAMPLE, checkpoint=torn, problems=sums, out=tmp_path / "x"),
        "torn/model.safetensors is damaged",
    )
    assert not (tmp_path / "x").exists()


def one_step(folder: Path, model: Path, sums: Path, **changes: Any) -> dict[str, Any]:
    """The file of a segment of one step."""
    values = {
        "spec": train_spec(), "base": model, "data": {"problems": sums}, "start": 0, "stop": 1, "work": folder / "work",
        "model_out": folder / "model", "state_out": folder / "state", "metrics_out": folder / "metrics", **changes,
    }  # fmt: skip
    return json.loads(json.dumps(values, default=str))


@pytest.mark.slow
def test_wrong_training_inputs(tmp_path, tables, tiny_base, sums):
    file = tmp_path / "segment.json"
    for changes, expected in (
        ({"data": {"problems": tables / "other.parquet"}}, "other.parquet lacks the column 'id'"),
        ({"spec": train_spec(reward="majorty")}, "unknown reward 'majorty' .did you mean 'majority'"),
        ({"stop": 0}, "segment.json: start 0 is not below stop 0"),
        ({"base": tmp_path / "none"}, "none is not a model in Hugging Face format"),
    ):
        file.write_text(json.dumps(one_step(tmp_path, tiny_base, sums, **changes)), encoding="utf-8")
        refused(run("train.py", segment=file), expected)
    assert {p.split("/")[0] for p in listing(tmp_path)} <= {"in", "work", "segment.json"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"spec": {"run": "r"}}, "spec: lacks the key 'seed'"),
        ({"stop": None}, "stop: is empty: give it a value"),
        ({"stop": "soon"}, "stop: must be a whole number, not 'soon'"),
        ({"stops": 3}, "unknown key 'stops' .did you mean 'stop'"),
        ({"labels": "x.parquet"}, "unknown key 'labels': it belongs under 'data'"),
        ({"data": {"problem": "x.parquet"}}, "data: unknown key 'problem' .did you mean 'problems'"),
        ({"data": {}}, "data: problems: is missing: add it .Training problems."),
        ({"start": 1, "stop": 2}, "resume is missing: give the training state of step 1"),
        ({"resume": "state"}, "resume has no effect at start 0"),
        ({"vllm_percent": 0}, "vllm_percent: must be at least 1, not 0"),
        ({"vllm_percent": 0.3}, "vllm_percent: must be a whole number, not 0.3"),
        ({"engine_sleep": 2}, "engine_sleep: must be true or false, not 2"),
        ({"alarm": {"drif": 1}}, "alarm: unknown key 'drif' .did you mean 'drift'"),
    ],
)
def test_a_wrong_segment_file_names_key_and_fix(tmp_path, change, expected):
    from srt.common.errors import SrtError
    from srt.training.segment import read_segment

    file = tmp_path / "segment.json"
    values = one_step(tmp_path, tmp_path / "base", tmp_path / "sums.parquet", **change)
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(SrtError, match=f"segment.json: {expected}") as caught:
        read_segment(file)
    assert "\n" not in str(caught.value)


def test_what_a_segment_file_says_is_so(tmp_path):
    """Null is none, 5 percent are 5 percent, and an alarm's other keys keep their defaults."""
    from srt.training.segment import read_segment

    file, data = tmp_path / "segment.json", {"problems": "p", "subset": None, "labels": "l"}
    rule = {"resume": None, "vllm_percent": 5, "reference_offload": True, "alarm": {"drift": 0.5}}
    file.write_text(json.dumps(one_step(tmp_path, tmp_path, tmp_path, **rule, data=data)), encoding="utf-8")
    segment = read_segment(file)
    assert segment.resume is None and segment.data.subset is None and segment.data.labels == Path("l")
    assert (segment.vllm_percent, segment.reference_offload, segment.engine_sleep) == (5, True, False)
    assert segment.alarm.drift == 0.5 and segment.alarm.shortcut == 0.5


# -- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_full_disk_while_a_model_is_made(small_disk):
    spec = TINY | {"steps": 2, "hidden_size": 64}
    refused(run("make_base.py", name="m", spec=spec, out=small_disk / "m"), r"disk full while writing \S*disk/m:")
    assert listing(small_disk) == []


@pytest.mark.slow
def test_full_disk_while_sampling(small_disk, tiny_base, sums):
    spec = SAMPLE | {"n": 256, "max_new_tokens": 24}
    result = run("sample.py", spec=spec, checkpoint=tiny_base, problems=sums, out=small_disk / "x.parquet")
    refused(result, r"disk full while writing \S*disk/x.parquet:")
    assert listing(small_disk) == []


@pytest.mark.slow
def test_full_disk_while_a_state_is_saved(small_disk, tmp_path, tiny_base, sums):
    """DeepSpeed and torch wrap the error in their own; earlier states and outputs stay unchanged."""
    file = tmp_path / "segment.json"
    values = one_step(tmp_path / "runs", tiny_base, sums, work=small_disk / "work")
    file.write_text(json.dumps(values), encoding="utf-8")
    refused(run("train.py", segment=file), r"disk full while writing \S*work/state-1:")
    kept = [name for name in listing(small_disk) if "tensorboard" not in name]
    logs = ["journal.jsonl", "lock", "metrics.jsonl", "timing.jsonl"]
    assert kept == ["work", *(f"work/{name}" for name in logs)] and not (tmp_path / "runs").exists()


# -- Ctrl-C -------------------------------------------------------------------------------------------------------


def interrupt(words: list[str], ready: str) -> tuple[int, str]:
    """Start, wait for `ready` on stderr, send SIGINT half a second later; exit code and stderr."""
    process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    seen = ""
    assert process.stderr is not None
    for line in process.stderr:
        seen += line
        if ready in line:
            break
    assert process.poll() is None, seen
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=400)[1]
    return process.returncode, seen + rest


@pytest.mark.slow
def test_interrupt_while_a_model_is_made(tmp_path):
    code, stderr = interrupt(command("make_base.py", name="m", spec=TINY, out=tmp_path / "out" / "m"), "base model:")
    assert code == 130 and "Traceback" not in stderr, stderr
    assert stderr.endswith("interrupted: nothing half-written was kept; run the same command to resume\n")
    assert listing(tmp_path) == ["out"]


@pytest.mark.slow
def test_interrupt_while_sampling(tmp_path, tiny_base, sums):
    out = tmp_path / "out" / "x.parquet"
    words = command("sample.py", spec=SAMPLE | {"n": 20000}, checkpoint=tiny_base, problems=sums, out=out)
    code, stderr = interrupt(words, "sampling:")
    assert code == 130 and "Traceback" not in stderr, stderr
    assert "interrupted: nothing half-written" in stderr and listing(tmp_path) == []
