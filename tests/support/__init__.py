"""Parts that several tests share. Nothing here is a test, and no test module imports another or `conftest`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the repository
