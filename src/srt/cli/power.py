"""Show what the configured seeds and problems can tell of each claim, before anything is paid (docs/claims.md).

For a claim on a margin: how often it is supported if it is true, and the half-width that 80 % need. For one on a
direction: how far beyond the threshold the truth must lie. Reads the configuration and simulates; starts no job.
"""

from __future__ import annotations

import argparse

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds of runs that list none")
    parser.add_argument(
        "--seed-sd", type=float, default=0.01, metavar="SD",
        help="standard deviation of an accuracy between seeds (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--problem-sd", type=float, default=0.1, metavar="SD",
        help="that of the difference of two checkpoints between problems (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from srt.claims.power import Assumed, powers, summary, to_markdown
    from srt.common.errors import SrtError

    if args.seeds is not None and args.seeds < 1:
        raise SrtError("--seeds must be at least 1")
    if min(args.seed_sd, args.problem_sd) < 0:
        raise SrtError("--seed-sd and --problem-sd must not be negative")
    config = configuration(args, **({"seeds": args.seeds} if args.seeds else {}))
    found = powers(config, Assumed(args.seed_sd, args.problem_sd))
    print(to_markdown(found))
    print(f"{summary(found)}.")
