"""Grade the rollouts of another project and compare our verdicts with theirs (docs/answers.md).

srt regrade rollouts.parquet --map by=model reference=gold verdict=correct --extractor boxed_or_last_number
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import table
from srt.common.plain_text import printable


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("rollouts", type=Path, help="table of rollouts (parquet); --map names its columns")
    parser.add_argument(
        "--map", nargs="+", default=[], metavar="OUR=THEIRS",
        help="their columns for response, reference, problem, by, verdict, prediction, set "
        "(default: response gold problem_id model correct pred set)",
    )  # fmt: skip
    parser.add_argument(
        "--differences",
        type=int,
        default=40,
        metavar="N",
        help="list at most N of the verdicts that differ (default 40)",
    )
    parser.add_argument("--preset", default="clean", metavar="NAME", help="clean (default) or authors")
    parser.add_argument(
        "--extractor",
        default="boxed",
        metavar="NAME",
        help="boxed, boxed_or_last_number, reasoning_gym or gsm8k_hash (default boxed)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that compare answers (default 1)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the accuracy per set and model, and the verdicts that differ."""
    from srt.answers import Grader
    from srt.evaluation.imported_rollouts import grade_imported, parse_mapping

    with Grader(args.preset, args.extractor, workers=args.workers) as grader:
        result = grade_imported(args.rollouts, parse_mapping(args.map), grader)
    percent = "{:.1%}"
    print(table(result.accuracies(), accuracy=percent, upstream=percent, points="{:+.1f}"))
    differences = result.differences()
    if result.left_out:
        print(f"\nrows left out because their reference is empty: {result.left_out}")
    print(f"\n{len(differences)} of {len(result.table)} verdicts differ:")
    for row in differences.head(args.differences).itertuples():
        print(
            printable(
                f"  row {row.row} {row.set} {row.by} {row.problem}: reference {row.reference!r}, upstream read "
                f"{shown(row.prediction)} ({row.upstream}), ours {shown(row.answer)} ({row.correct}, {row.reason})"
            )
        )
    if len(differences) > args.differences:
        print(f"  … {len(differences) - args.differences} more: --differences {len(differences)}")


def shown(answer: object) -> str:
    """An answer in a listing: short and quoted, "none" if there is none."""
    return repr(answer[:60]) if isinstance(answer, str) else "none"
