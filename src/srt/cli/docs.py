"""Write what is generated from src/srt/config: the pages of docs/config with all keys, and the JSON schemas."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is out of date")


def run(args: argparse.Namespace) -> None:
    """Write what is out of date, or name it."""
    from srt.common.errors import SrtError
    from srt.common.io import write_text
    from srt.config.document import files, stale

    if not Path("config").is_dir():
        raise SrtError(f"{Path.cwd()} has no folder config: run srt docs in the repository root")
    old = stale(Path())
    if args.check and old:
        raise SrtError(f"{', '.join(old)}: out of date with src/srt/config: run `srt docs`")
    for name in old:
        write_text(Path(name), files()[name])
    print(f"wrote {', '.join(old)}" if old else "docs/config and the schemas are up to date")
