"""Grade and vote on raw samples: scores (one row per sample) and groups (one row per problem).

score.py --samples S.samples.parquet --problems data/aime24.parquet --scores S.scores.parquet --groups S.groups.parquet
score.py --import rollouts.parquet --map by=model reference=gold verdict=correct --extractor boxed_or_last_number
"""

import argparse
import sys
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import SrtError, run_cli


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    table = p.add_argument_group("our tables")
    table.add_argument("--samples", type=Path, help="raw samples to grade (parquet)")
    table.add_argument("--problems", type=Path, nargs="+", help="problem tables with the references (parquet)")
    table.add_argument("--scores", type=Path, help="output, one row per sample")
    table.add_argument("--groups", type=Path, help="output, one row per problem")
    table.add_argument("--buffer-rows", type=int, default=16384, help="samples in memory at once (default %(default)s)")
    imported = p.add_argument_group("imported rollouts")
    imported.add_argument("--import", dest="imported", type=Path, metavar="ROLLOUTS", help="table with its own columns")
    imported.add_argument(
        "--map", nargs="+", default=[], metavar="OUR=THEIRS",
        help="its column names for response, reference, problem, by, verdict, prediction, set "
        "(default: response gold problem_id model correct pred set)",
    )  # fmt: skip
    imported.add_argument(
        "--differences", type=int, default=40, help="most differing verdicts to list (default %(default)s)"
    )
    grading = p.add_argument_group("grading")
    grading.add_argument("--preset", default="clean", help="clean: equivalence classes; authors: as their code did")
    grading.add_argument(
        "--extractor", default="boxed", help="boxed, boxed_or_last_number, reasoning_gym or gsm8k_hash (default boxed)"
    )
    grading.add_argument("--workers", type=int, default=1, help="processes for costly comparisons (default 1)")
    grading.add_argument("--timeout-s", type=float, default=5.0, help="CPU seconds per comparison (default 5)")
    grading.add_argument("--memory-mb", type=int, default=2048, help="MiB per comparison (default 2048)")
    return p


def main() -> None:
    args = parser().parse_args()
    ours = [args.samples, args.problems, args.scores, args.groups]
    if (args.imported is None) == (not any(ours)) or (args.imported is None and not all(ours)):
        raise SrtError("give --samples, --problems, --scores and --groups, or --import only; see --help")
    if args.buffer_rows < 1:
        raise SrtError("--buffer-rows must be at least 1")

    from srt.answers import Grader

    grader = Grader(args.preset, args.extractor, "math", args.timeout_s, args.memory_mb, args.workers)
    with grader:
        if args.imported:
            report_imported(args, grader)
        else:
            from srt.evaluation.scoring import score_file

            summary = score_file(args.samples, args.problems, args.scores, args.groups, grader, args.buffer_rows)
            print("\n".join(summary.lines()))


def shown(answer: object) -> str:
    """An answer in a listing: short and quoted, or "none"."""
    return repr(answer[:60]) if isinstance(answer, str) else "none"


def report_imported(args: argparse.Namespace, grader) -> None:
    from srt.evaluation.imported_rollouts import grade_imported, parse_mapping

    result = grade_imported(args.imported, parse_mapping(args.map), grader)
    table = result.accuracies()
    width = max(map(len, table["by"]))
    for row in table.itertuples():
        theirs = f"upstream {row.upstream:6.1%}  {row.points:+5.1f} points, {row.differences} differ"
        known = theirs if row.upstream == row.upstream else ""
        print(f"{row.set:8} {row.by:{width}} {row.responses:5} responses  ours {row.accuracy:6.1%}  {known}")
    differences = result.differences()
    print(f"{len(differences)} of {len(result.table)} verdicts differ:")
    for row in differences.head(args.differences).itertuples():
        print(
            f"  row {row.row} {row.set} {row.by} {row.problem}: reference {row.reference!r}, upstream read "
            f"{shown(row.prediction)} ({row.upstream}), ours {shown(row.answer)} ({row.correct}, {row.reason})"
        )
    if len(differences) > args.differences:
        print(f"  … {len(differences) - args.differences} more: --differences {len(differences)}")
    sys.stdout.flush()


if __name__ == "__main__":
    run_cli(main)
