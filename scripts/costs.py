"""Write what a run of the workflow has cost, by rule and base model, from its benchmark files (docs/cost.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolved", required=True, type=Path, help="resolved configuration (config.json)")
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import write_csv
    from srt.config import read_resolved
    from srt.plan.spent import spent

    write_csv(args.out, spent(read_resolved(args.resolved)))


if __name__ == "__main__":
    run_cli(main)
