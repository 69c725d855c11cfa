"""Rollout browser: one HTML page over the stored samples and scores of a run's checkpoints, or the list of pages."""

import argparse
from pathlib import Path

from _script import argument_parser, run_cli


def parser() -> argparse.ArgumentParser:
    p = argument_parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="the page of one run")
    page.add_argument("--spec", required=True, help="JSON: run, label, model, reward, points [{step, name, stems}]")
    page.add_argument("--problems", type=Path, nargs="+", required=True, metavar="PARQUET", help="problem tables")
    page.add_argument(
        "--max-rollouts", type=int, default=10_000, help="responses on the page, at most (default %(default)s)"
    )
    page.add_argument("--out", type=Path, required=True, metavar="HTML", help="page to write")
    pages = commands.add_parser("list", help="a page of links to the pages of runs")
    pages.add_argument("--spec", required=True, help="JSON list: file, run, label, model, data")
    pages.add_argument("--out", type=Path, required=True, metavar="HTML", help="page to write")
    return p


def main() -> None:
    args = parser().parse_args()

    from srt.browser.collect import SPEC, collect
    from srt.browser.page import render_list, render_page
    from srt.common import io
    from srt.common.progress import log

    if args.command == "list":
        io.write_text(args.out, render_list(io.parse_spec(args.spec, kind=list)))
        return
    page = collect(io.parse_spec(args.spec, SPEC), args.problems, args.max_rollouts)
    io.write_text(args.out, render_page(page))
    shown = len(page.index["responses"]["sample"])
    log(
        f"{page.index['run']}: {shown} of {page.index['in_all']['rollouts']} rollouts, "
        f"{len(page.index['problems'])} of {page.index['in_all']['problems']} problems at "
        f"{len(page.index['steps'])} steps, {args.out.stat().st_size / 1e6:.1f} MB -> {args.out}"
    )


if __name__ == "__main__":
    run_cli(main)
