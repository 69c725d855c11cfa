"""Every mistake in a configuration is one sentence: the file, the key, what is wrong and the fix."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common.errors import SrtError
from srt.config import load_config, read_yaml
from support import warm
from support.config_files import FILES, MAIN, change, load, specs, write

# id: file, the right text, the mistaken text, parts of the sentence
MISTAKES: dict[str, list[str]] = read_yaml(Path(__file__).with_name("config_mistakes.yaml"))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_sentence_with_file_key_and_fix(mistake: str, tmp_path: Path) -> None:
    file, old, new, *expected = MISTAKES[mistake]
    main = write(tmp_path)
    change(tmp_path, file, old, new)
    with pytest.raises(SrtError) as caught:
        load_config(read_yaml(main, MAIN), tmp_path, MAIN, [main])
    sentence = str(caught.value)
    assert "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 400
    first, *rest = expected
    assert sentence.startswith(f"{file}{first}" if first.startswith(":") else first), sentence
    assert all(part in sentence for part in rest), sentence


def test_the_configuration_without_a_mistake_is_accepted(tmp_path: Path) -> None:
    config = load_config(read_yaml(write(tmp_path)), tmp_path)
    assert config.instances("srt") == ["srt-s1", "srt-s2"]


@pytest.mark.parametrize(
    ("data", "expected"), [(b"a: \xff", "is not UTF-8 text"), (b"[" * 5000, "nested too deeply|not valid YAML")]
)
def test_files_that_are_no_text(data: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(SrtError, match=expected):
        read_yaml(tmp_path / "x.yaml", "x.yaml")


def test_numbers_and_chains_without_end(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"a: 1\nb: {'9' * 5000}\n", encoding="utf-8")
    with pytest.raises(SrtError, match=r"x.yaml: line 2: the number has 5,000 characters: shorten it"):
        read_yaml(tmp_path / "x.yaml")
    write(tmp_path)
    chain = "".join(f"_b{i}: {{extends: _b{i + 1}}}\n" for i in range(3000))
    change(tmp_path, "runs.yaml", "srt:\n", f"{chain}_b3000: {{gpus: 0}}\nsrt:\n  extends: _b0\n")
    with pytest.raises(SrtError, match=r"runs.yaml: _b50: extends: more than 50 entries extend each other in a row"):
        load(tmp_path)


def test_a_number_in_quotes_is_that_number(tmp_path: Path) -> None:
    write(tmp_path)
    number = load(tmp_path)
    change(tmp_path, MAIN, "1.0e-4", '"1e-4"')
    assert load(tmp_path) == number and specs(load(tmp_path)) == specs(number)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(SrtError, match=r"mian.yaml does not exist: correct the path \(did you mean 'main.yaml'\?\)"):
        read_yaml(tmp_path / "mian.yaml")


def test_what_came_from_the_command_line_is_called_so(tmp_path: Path) -> None:
    main = write(tmp_path)
    raw = read_yaml(main)
    for changes, expected in [
        ({"reslts": "x"}, "--config: unknown key 'reslts' (did you mean 'results'?)"),
        ({"save_every": 0}, "--config: save_every: must be greater than 0, not 0"),
        ({"sampling": {**raw["sampling"], "n": "many"}}, "--config: sampling: n: must be a whole number, not 'many'"),
        (
            {"scoring": {"preset": "clean", "workers": "0"}},
            "--config: scoring: workers: must be greater than 0, not '0'",
        ),
    ]:
        with pytest.raises(SrtError) as caught:
            load_config(raw | changes, tmp_path, configfiles=[main])
        assert str(caught.value) == expected


def snakemake(folder: Path, root: Path, *options: str, target: str = "all") -> subprocess.CompletedProcess[str]:
    """A dry-run of the real workflow in `folder`, without a profile, for each of which Snakemake prints a line."""
    return warm.run(
        ["-m", "snakemake", target, "-n", "-s", str(root / "Snakefile"), "--directory", str(folder),
         "--configfile", str(folder / "main.yaml"), "--workflow-profile", "none", *options],
        cwd=folder,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["top", "train_key", "unknown_run", "segment", "twice_main", "tab"])
def test_snakemake_prints_that_sentence_and_no_more(mistake: str, tmp_path: Path, root: Path) -> None:
    file, old, new, first, *_ = MISTAKES[mistake]
    write(tmp_path)
    change(tmp_path, file, old, new)
    done = snakemake(tmp_path, root)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1, lines
    assert lines[0].startswith(f"error: {file}{first}"), lines
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\nb: [1\n", ": line 3: is not valid YAML (did not find expected ',' or ']'"),
        (b"a: \xff\n", " is not UTF-8 text (byte 3): save it as UTF-8"),
        (b"a: 1\na: 2\n", ": line 2: key 'a' appears twice (first in line 1): rename or remove one"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_main_file_that_snakemake_cannot_read(
    data: bytes, expected: str, named: bool, tmp_path: Path, root: Path
) -> None:
    """With the default profile, named by --configfile or by the Snakefile."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_bytes(data)
    options = ["--configfile", str(tmp_path / "config/config.yaml")] if named else []
    done = warm.run(["-m", "snakemake", "-n", "--directory", str(tmp_path), *options], cwd=root)
    name = f"{tmp_path}/config/config.yaml" if named else "config/config.yaml"
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {name}{expected}"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_snakemake_takes_and_checks_overrides(tmp_path: Path, root: Path) -> None:
    write(tmp_path)
    done = snakemake(tmp_path, root, "--config", "reslts=x")
    assert done.returncode == 2 and done.stderr == "error: --config: unknown key 'reslts' (did you mean 'results'?)\n"
    # nested values arrive as text from the command line
    done = snakemake(
        tmp_path, root, "--config", "results=results/here", "sampling={n: 4, top_p: 1e-1}",
        "train_defaults={gradient_checkpointing: none, zero_stage: 2}", target="results/here/models/tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results/here/models/tiny" in done.stdout + done.stderr


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.dates(),
    st.sampled_from(["", "tiny", "sums", "x", "1e-6", "{a}\n"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(SCALARS.filter(lambda v: v == v), part, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=400)
def test_any_value_anywhere_is_accepted_or_one_sentence(data: st.DataObject) -> None:
    raw = {**yaml.safe_load(FILES["main.yaml"])}
    for section, file in raw.pop("files").items():
        raw[section] = yaml.safe_load(FILES[file])
    node: Any = raw
    while True:  # walk to a random place and put any value there, or under a new key
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 3)) == 0:
            if isinstance(node, dict) and data.draw(st.booleans()):
                key = data.draw(SCALARS.filter(lambda v: v == v))
            node[key] = data.draw(ANYTHING)
            break
        node = node[key]
    try:
        load_config(raw, Path("."), MAIN)
    except SrtError as error:
        assert "\n" not in str(error) and str(error).startswith(MAIN)
