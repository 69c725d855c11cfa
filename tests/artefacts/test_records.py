"""Records of results: what differs is said in a phrase, whatever folder the results lie in and whatever their times."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt.artefacts.records import COPYING, Made, Records, content_id, unrecorded
from srt.artefacts.renaming import rename_run
from srt.common.errors import SrtError
from srt.common.io import canonical_json


def made(results: Path, spec: dict | None = None, suffix: str = "a") -> tuple[Made, Made]:
    """A data table and a training segment made from it, as files."""
    table, step = results / f"data/{suffix}.parquet", results / "runs/r-s1/step-4"
    first = Made("data", {"spec": "{}", "revision": 2}, (), (str(table),))
    params = {"spec": canonical_json(spec or {"seed": 1, "train": {"learning_rate": 0.001, "n": 8}}), "start": 0}
    second = Made("train", params, (str(table),), (str(step / "model"), str(step / "metrics.parquet")))
    return first, second


def write_files(results: Path) -> None:
    for path, text in {
        "data/a.parquet": "rows", "runs/r-s1/step-4/model/srt.json": "{}", "runs/r-s1/step-4/metrics.parquet": "m",
    }.items():  # fmt: skip
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).write_text(text)


def recorded(results: Path) -> None:
    write_files(results)
    records = Records(results)
    for each in made(results):
        records.write(each)


def test_what_was_recorded_does_not_differ_and_a_changed_value_is_named(tmp_path: Path) -> None:
    recorded(tmp_path)
    records = Records(tmp_path)
    assert [records.differences(each) for each in made(tmp_path)] == [[], []]
    changed = made(tmp_path, {"seed": 1, "train": {"learning_rate": 0.05, "n": 4}})[1]
    assert records.differences(changed) == ["train.learning_rate=0.001, now 0.05", "train.n=8, now 4"]


def test_a_copy_elsewhere_with_other_times_is_the_same(tmp_path: Path) -> None:
    recorded(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for number, path in enumerate(sorted((tmp_path / "two").rglob("*"), reverse=True)):
        os.utime(path, (1e9 + number, 1e9 + number))
    records = Records(tmp_path / "two")
    assert [records.differences(each) for each in made(tmp_path / "two")] == [[], []]


def test_an_input_that_was_made_again_is_named_and_one_without_record_counts_as_unchanged(tmp_path: Path) -> None:
    recorded(tmp_path)
    first, second = made(tmp_path)
    (tmp_path / "data/a.parquet").write_text("other rows")
    Records(tmp_path).write(first)
    records = Records(tmp_path)
    assert records.differences(first) == [] and records.differences(second) == ["from another data/a.parquet"]
    Records(tmp_path).path(first).unlink()
    assert Records(tmp_path).differences(second) == []


def test_an_input_that_was_changed_by_hand_is_seen_and_one_that_was_only_touched_is_not(tmp_path: Path) -> None:
    recorded(tmp_path)
    table, later = tmp_path / "data/a.parquet", time.time() + 2 * COPYING
    os.utime(table, (later, later))
    first, second = made(tmp_path)
    assert [Records(tmp_path).differences(each) for each in (first, second)] == [[], []]
    table.write_text("edited")
    os.utime(table, (later, later))
    records = Records(tmp_path)
    assert records.differences(first) == [] and records.differences(second) == ["from another data/a.parquet"]


def test_a_renamed_run_keeps_its_results_and_what_was_made_from_them(tmp_path: Path) -> None:
    recorded(tmp_path)
    spec = {"run": "r-s1", "seed": 1, "train": {"n": 8}}
    before = Made("train", {"spec": canonical_json(spec)}, (), (str(tmp_path / "runs/r-s1/step-4/model"),))
    follows = {"run": "q-s1", "teacher": "r-s1/step-4", "data": "rr-s1"}
    other = tmp_path / "runs/q-s1/step-2/model"
    other.mkdir(parents=True)
    (tmp_path / "eval/r-s12").mkdir(parents=True)
    after = Made("train", {"spec": canonical_json(follows)}, before.outputs, (str(other),))
    for each in (before, after):
        Records(tmp_path).write(each)
    rename_run(tmp_path, "r", "new")
    outputs = (str(tmp_path / "runs/new-s1/step-4/model"),)
    before = Made("train", {"spec": canonical_json({**spec, "run": "new-s1"})}, (), outputs)
    after = Made("train", {"spec": canonical_json({**follows, "teacher": "new-s1/step-4"})}, outputs, (str(other),))
    assert [Records(tmp_path).differences(each) for each in (before, after)] == [[], []]
    assert (tmp_path / "eval/new-s12").is_dir() and not list(tmp_path.rglob("r-s1*"))
    with pytest.raises(SrtError, match="holds nothing of a run 'r'"):
        rename_run(tmp_path, "r", "new")


def test_results_without_a_record_are_listed(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in unrecorded(tmp_path)] == [
        "data/a.parquet", "runs/r-s1/step-4/model",
    ]  # fmt: skip
    recorded(tmp_path)
    assert unrecorded(tmp_path) == []


def test_other_inputs_are_named(tmp_path: Path) -> None:
    recorded(tmp_path)
    other = made(tmp_path, suffix="b")[1]
    assert Records(tmp_path).differences(other) == [
        "without the input data/b.parquet", "from data/a.parquet, no input now",
    ]  # fmt: skip


def test_without_a_whole_record_nothing_is_said(tmp_path: Path) -> None:
    recorded(tmp_path)
    first, second = made(tmp_path)
    path = Records(tmp_path).path(second)
    assert path.name == "model.made.json"
    for text in ("", "[1]", "{}", '{"version": 1, "params": 3}', json.dumps({"version": 99})):
        path.write_text(text)
        assert Records(tmp_path).differences(second) is None
    records = Records(tmp_path)
    records.drop(first)
    assert records.differences(first) is None and not records.path(first).exists()


def test_content_ids_see_files_and_listed_hashes(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert str(content_id(tmp_path / "data/a.parquet")).startswith("sha256:")
    assert str(content_id(tmp_path / "runs/r-s1/step-4/model")).startswith("model:")
    assert content_id(tmp_path / "nowhere") is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab[", max_size=4),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["spec", "start", "revision"]), VALUES), st.data())
def test_equal_parameters_never_differ_and_different_ones_always_do(params: dict, data: st.DataObject) -> None:
    from srt.artefacts.records import _changed

    other = data.draw(st.dictionaries(st.sampled_from(["spec", "start", "revision"]), VALUES))
    assert _changed(params, params) == []
    if canonical_json(params) != canonical_json(other):
        assert _changed(params, other)
