"""Simulate the intervals, peaks and power of claims on data whose truth is known (docs/claims.md shows the tables).

Prints how often 95 % intervals cover by number of seeds, how wide they are in standard deviations of the mean, how
often a peak is called better than the base model where no checkpoint is, and how often each claim on a margin is
supported if it is true. Takes half a minute; of files, reads the configuration only.
"""

from __future__ import annotations

import argparse

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument(
        "--runs", type=int, default=2000, metavar="N", help="simulated data sets of each cell (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    from srt.claims.power import margins_to_markdown, powers
    from srt.common.errors import SrtError
    from srt.metrics.coverage import to_markdown

    if args.runs < 1:
        raise SrtError(f"--runs must be at least 1, not {args.runs}")
    power = margins_to_markdown(powers(configuration(args)))
    print(to_markdown(args.runs), power, sep="\n", end="")
