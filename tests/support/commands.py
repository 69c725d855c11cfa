"""`srt COMMAND` of this very tree, as a person calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import ROOT


def srt(*args: str | Path, folder: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `srt` in a folder; its exit code must be `code`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "srt.cli", *args], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done
