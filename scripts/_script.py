"""What every script here begins with: src/ on the path, a parser, exit codes.

The scripts belong to the rules in rules/: each makes the files of one rule. They also run by hand, from a plain clone
and in every environment that has the packages. What a person calls is `srt` (src/srt/cli).
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from srt.common.errors import run_cli as run_cli


def argument_parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help shows the script's docstring and `epilog` line by line as they are."""
    return argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
