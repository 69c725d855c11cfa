"""Simulate the intervals and peaks of claims on data whose truth is known (docs/claims.md shows the tables).

Prints how often 95 % intervals cover by number of seeds, how wide they are in standard deviations of the mean, and how
often a peak is called better than the base model where no checkpoint is. Takes half a minute; reads no files.
"""

from __future__ import annotations

import argparse


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--runs", type=int, default=2000, metavar="N", help="simulated data sets of each cell (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    from srt.common.errors import SrtError
    from srt.metrics.coverage import to_markdown

    if args.runs < 1:
        raise SrtError(f"--runs must be at least 1, not {args.runs}")
    print(to_markdown(args.runs), end="")
