"""Print the paper's claims with their verdicts, numbers and intervals (docs/claims.md).

`snakemake claims` first makes every table that the claims need; this command reads the tables made so far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument(
        "--partial", action="store_true", help="a claim whose tables are missing is undecided, not an error"
    )


def run(args: argparse.Namespace) -> None:
    """Print the verdicts as Markdown."""
    from srt.claims.check_claims import check_claims
    from srt.claims.resolve import resolve_claims
    from srt.claims.verdict_tables import to_markdown
    from srt.common.errors import SrtError

    spec, files = resolve_claims(configuration(args))
    files.append(spec["clean"])
    missing = [] if args.partial else [file for file in files if not Path(file).is_file()]
    if missing:
        raise SrtError(
            f"{len(missing)} of the {len(files)} tables that the claims read are not made, such as {missing[0]}: "
            "make them with snakemake claims, or add --partial"
        )
    print(to_markdown(check_claims(spec, args.partial)), end="")
