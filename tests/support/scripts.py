"""The scripts of the rules as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from support import ROOT, warm

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(script: str, **options: Any) -> list[str]:
    """A command line; lists become several words, dicts JSON."""
    words = [sys.executable, str(ROOT / "scripts" / script)]
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        values = value if isinstance(value, list) and name != "spec" else [value]
        words += [json.dumps(v) if isinstance(v, dict | list) else str(v) for v in values]
    return words


def run(script: str, **options: Any) -> subprocess.CompletedProcess:
    return warm.run(command(script, **options)[1:], env=ENVIRONMENT)
