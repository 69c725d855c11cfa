"""A model folder is the files that srt.json records, or it is refused before anything is computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srt.common.errors import SrtError
from srt.evaluation.sampling import sample
from srt.models.checkpoint import check_model
from support.specs import train_spec
from support.training import script, train, two_ranks, whole_run


@pytest.fixture
def flipped(tiny_base: Path, tmp_path: Path) -> Path:
    """A base model of which one bit has changed."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return folder


def test_the_files_are_those_of_the_list(tiny_base: Path, flipped: Path) -> None:
    check_model(tiny_base)
    sentence = (
        r"base/model.safetensors is damaged or missing: it is not the file that srt.json records. Delete .*base and"
    )
    with pytest.raises(SrtError, match=sentence):
        check_model(flipped)
    (flipped / "model.safetensors").unlink()
    with pytest.raises(SrtError, match=sentence):
        check_model(flipped)


def test_each_file_is_in_the_share_of_one_process(flipped: Path) -> None:
    refused = 0
    for rank in range(3):
        try:
            check_model(flipped, rank, 3)
        except SrtError:
            refused += 1
    assert refused == 1


def test_a_list_without_files_is_refused(flipped: Path) -> None:
    (flipped / "srt.json").write_text(json.dumps({"fingerprint": "0"}), encoding="utf-8")
    with pytest.raises(SrtError, match="does not list the model's files"):
        check_model(flipped)


def test_neither_sampling_nor_training_starts_from_a_flipped_bit(flipped: Path, sums: Path, tmp_path: Path) -> None:
    with pytest.raises(SrtError, match="is damaged or missing"):
        sample({"dtype": "float32", "engine": "transformers", "threads": 1}, flipped, [sums], tmp_path / "out.parquet")
    with pytest.raises(SrtError, match="is damaged or missing"):
        train(tmp_path, flipped, sums, train_spec(), 2)
    assert not list(tmp_path.rglob("state-*")) and not (tmp_path / "out.parquet").exists()


@pytest.mark.slow
def test_two_ranks_refuse_it_together(flipped: Path, sums: Path, tmp_path: Path) -> None:
    given = whole_run(tmp_path, flipped, train_spec())
    done = two_ranks(*script(given, sums))
    assert done.returncode == 2 and "base/model.safetensors is damaged" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
