"""Keep the results of a run whose name has changed in the configuration.

srt rename srt_math12k srt_baseline

Rename the run in the configuration first. The command moves the run's folders, of all seeds, and rewrites the records
that name them, also in results of other runs that start from it. It changes no result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("old", metavar="OLD", help="the name that the results have")
    parser.add_argument("new", metavar="NEW", help="the name that the configuration has")


def run(args: argparse.Namespace) -> None:
    """Check both names against the configuration, then move."""
    from srt.artefacts.renaming import rename_run
    from srt.common.errors import SrtError, nearest
    from srt.workflow.results_lock import ResultsLock

    config = configuration(args)
    if args.new not in config.runs:
        raise SrtError(
            f"{args.configfile[-1]} has no run '{args.new}'{nearest(args.new, config.runs)}: rename it there first"
        )
    if args.old in config.runs:
        raise SrtError(
            f"{args.configfile[-1]} still has a run '{args.old}', which needs its results: rename it there first"
        )
    results = Path(config.results)
    ResultsLock(results).acquire()
    folders, records = rename_run(results, args.old, args.new)
    print(f"renamed {args.old} to {args.new}: {folders} folders moved, {records} records rewritten in {results}")
