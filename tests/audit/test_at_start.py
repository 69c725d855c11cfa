"""Equal questions in training and test sets, found before the first job."""

from __future__ import annotations

from pathlib import Path

from srt.audit.at_start import overlaps
from srt.config import Config
from support.config_files import change, load, write

CSV = "sums: {source: local, path: %s}\nsums_test: {source: local, path: %s}\n"
GENERATED = """\
sums:
  source: reasoning_gym
  name: chain_sum
  size: 32
  split: train
sums_test: {source: reasoning_gym, name: chain_sum, size: 16, split: test}
"""


def configured(folder: Path, train: str, test: str, reward: str = "majority") -> Config:
    """Two runs on `sums`, tested on `sums_test`: files of the given questions, the same file where they are equal."""
    write(folder)
    files = {"train.csv": train, "test.csv": test}
    (folder / "data").mkdir()
    for name, questions in files.items():
        rows = "".join(f"{question},1\n" for question in questions)
        (folder / "data" / name).write_text(f"problem,answer\n{rows}", encoding="utf-8")
    change(folder, "datasets.yaml", GENERATED, CSV % tuple(files))
    change(folder, "main.yaml", "local_dir: data", f"local_dir: {folder / 'data'}")
    return load(folder)


def test_equal_questions_of_local_files_are_counted_for_all_their_runs(tmp_path: Path) -> None:
    (told,) = overlaps(configured(tmp_path, "abcd", "dAxy"))
    assert told.startswith(
        "2 of 4 questions of test set 'sums_test' are in training set 'sums' (run gt and 1 more): claims"
    )


def test_disjoint_sets_and_missing_files_are_silent(tmp_path: Path) -> None:
    config = configured(tmp_path, "abcd", "xy")
    assert overlaps(config) == []
    (tmp_path / "data/test.csv").unlink()
    assert overlaps(config) == []


def test_test_time_training_is_silent_unless_it_learns_true_answers(tmp_path: Path) -> None:
    configured(tmp_path, "abcd", "abcd")
    change(tmp_path, "runs.yaml", "data: sums\n  reward: majority", "data: sums_test\n  reward: majority")
    change(tmp_path, "runs.yaml", "data: sums\n  reward: ground_truth", "data: more_test\n  reward: ground_truth")
    (tmp_path / "data/more.jsonl").write_text('{"problem": "q", "answer": "1"}\n', encoding="utf-8")
    (told,) = overlaps(load(tmp_path))
    assert told.startswith("1 of 1 questions of test set 'more_test' are in training set 'more_test' (run gt):")
