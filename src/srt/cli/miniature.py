"""Make the page of a finished small run, docs/miniature/README.md or docs/real/README.md.

Collects the run's tables and figures beside the page, then fills the page's template from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser, "config/mini.yaml")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/miniature"), metavar="FOLDER",
        help="folder of the page and of its template (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--fill-only", action="store_true", help="fill the page from the files already in FOLDER")


def run(args: argparse.Namespace) -> None:
    """Make the page."""
    from srt.common.errors import SrtError
    from srt.common.io import write_text
    from srt.report.miniature_page import fill
    from srt.report.miniature_tables import collect, judge_again

    template = args.out / "template.md"
    if not template.is_file():
        raise SrtError(f"{template} does not exist: --out names the folder of the page and its template")
    if not args.fill_only:
        collect(configuration(args), args.out)
    judge_again(configuration(args), args.out)
    write_text(args.out / "README.md", fill(template.read_text(encoding="utf-8"), args.out))
    print(args.out / "README.md")
