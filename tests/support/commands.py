"""`srt COMMAND` of this very tree, as a person calls it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import ROOT, warm


def srt(*args: str | Path, folder: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `srt` in a folder; its exit code must be `code`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = warm.run(["-m", "srt.cli", *map(str, args)], cwd=folder, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done
