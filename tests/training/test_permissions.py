"""Outputs and states have the permissions that the umask gives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.specs import train_spec
from support.training import train


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_what_a_segment_leaves_is_readable_as_the_umask_says(tmp_path: Path, tiny_base: Path, sums: Path, umask: int):
    """safetensors and other libraries create their files for the owner alone."""
    before = os.umask(umask)
    try:
        out = train(tmp_path / "run", tiny_base, sums, train_spec(), 1)
    finally:
        os.umask(before)
    assert (out / "model/model.safetensors").is_file() and any((out / "state").rglob("*.pt"))
    left = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    wrong = [
        (str(path), oct(mode))
        for path in left
        if (mode := path.stat().st_mode & 0o777) != (0o777 if path.is_dir() else 0o666) & ~umask
    ]
    assert wrong == []
