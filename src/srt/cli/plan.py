"""Print what a configuration will cost: jobs, GPU-hours, wall time, disk (docs/cost.md).

Reads the configuration and the files already in its results folder; starts no job. `snakemake plan` prints the same and
takes Snakemake's own --config into account.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument(
        "--resolved", type=Path, metavar="JSON", help="instead of --configfile: config.json of a results folder"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds of runs that list none (with --configfile)")
    parser.add_argument(
        "--partitions", type=int, nargs="+", metavar="N", help="numbers of partitions to show a wall time for"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write plan.csv (by target) and plan.json there")


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    from srt.common.errors import SrtError
    from srt.common.io import write_csv, write_json
    from srt.config import read_resolved
    from srt.plan.tables import make_plan, to_json
    from srt.plan.text import to_text

    if args.seeds is not None and args.resolved:
        raise SrtError(
            "--seeds has no effect on --resolved, whose runs already have their seeds: remove one of the two"
        )
    if args.seeds is not None and args.seeds < 1:
        raise SrtError("--seeds must be at least 1")
    changes = {"seeds": args.seeds} if args.seeds else {}
    config = read_resolved(args.resolved) if args.resolved else configuration(args, **changes)
    if args.partitions:
        if min(args.partitions) < 1:
            raise SrtError("--partitions must be at least 1")
        config = config.model_copy(update={"plan": config.plan.model_copy(update={"partitions": args.partitions})})
    plan = make_plan(config)
    print(to_text(plan), end="")
    if args.out:
        write_csv(args.out / "plan.csv", plan.targets)
        write_json(args.out / "plan.json", to_json(plan))
