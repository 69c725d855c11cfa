"""Write the table of versions, hashes, seeds and fingerprints (CSV) of everything that a workflow has made."""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--spec", required=True, help="JSON: config (a hash), models, data, runs (srt.report.provenance)"
    )
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import parse_spec, write_csv
    from srt.report.provenance import SPEC, provenance

    root = Path(__file__).resolve().parent.parent
    write_csv(args.out, provenance(parse_spec(args.spec, SPEC), root))


if __name__ == "__main__":
    run_cli(main)
