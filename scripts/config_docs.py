"""Write config/README.md and the JSON schemas of the configuration from its pydantic models, or check them."""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import SrtError, run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of step")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parent.parent, help="repository to write in"
    )
    args = parser.parse_args()

    from srt.config.document import files, stale

    old = stale(args.root)
    if args.check and old:
        raise SrtError(f"{', '.join(old)}: out of step with src/srt/config: run `python scripts/config_docs.py`")
    if not args.check:
        from srt.common.io import write_text

        for name in old:
            write_text(args.root / name, files()[name])
    print(f"{'wrote ' + ', '.join(old) if old else 'config/README.md and the schemas are up to date'}")


if __name__ == "__main__":
    run_cli(main)
