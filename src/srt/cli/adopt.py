"""Adopt results of unknown origin: write records that they were made by this configuration.

The record beside a result says what the result was made from (docs/faults.md). Results that were made before records
existed, and have lost .snakemake, have none, and no run uses them. This command plans the workflow, starts nothing, and
writes a record for each result that has none. Call it only if you know that these results are of this configuration.
Results that differ from their record stay as they are; the next run makes them again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from srt.artefacts.records import unrecorded
from srt.cli.shared import add_configfile
from srt.workflow.result_records import ADOPT


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument(
        "--list", action="store_true", help="only list results without a record, in all of results/; exit code 1 if any"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys of the main file, as with Snakemake's --config",
    )


def run(args: argparse.Namespace) -> int:
    """Plan with SRT_ADOPT set, and show the last lines only."""
    if args.list:
        return list_unrecorded(sorted(path for path in Path("results").glob("*/") if path.is_dir()))
    command = [sys.executable, "-m", "snakemake", "--configfile", *map(str, args.configfile)]
    command += ["--cores", "1", "-n", "--quiet"]
    command += ["--config", *args.config] if args.config else []
    done = subprocess.run(command, env=os.environ | {ADOPT: "1"}, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    print("\n".join(lines[-3:] if done.returncode == 0 else lines), file=sys.stderr)
    return done.returncode


def list_unrecorded(folders: list[Path]) -> int:
    """Print a line per folder with results whose origin only .snakemake records; return the exit code."""
    found = {folder: unrecorded(folder) for folder in folders}
    for folder, paths in found.items():
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            print(
                f"{folder}: nothing but .snakemake records what made {paths[0].relative_to(folder)}{more}: run the "
                "workflow once to write records, or use `srt adopt` later",
                file=sys.stderr,
            )
    return int(any(found.values()))
