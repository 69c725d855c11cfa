"""Grade raw samples and vote on them: scores (one row per sample) and groups (one row per problem).

score.py --samples S.samples.parquet --problems data/aime24.parquet --scores S.scores.parquet --groups S.groups.parquet
"""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, type=Path, help="raw samples to grade (parquet)")
    parser.add_argument("--problems", required=True, type=Path, nargs="+", help="tables with the references (parquet)")
    parser.add_argument("--scores", required=True, type=Path, help="table to write, one row per sample")
    parser.add_argument("--groups", required=True, type=Path, help="table to write, one row per problem")
    parser.add_argument(
        "--preset",
        default="clean",
        help="votes by equivalence class (clean) or by raw string, as in the authors' code (authors)",
    )
    parser.add_argument(
        "--extractor",
        default="boxed",
        help="boxed, boxed_or_last_number, reasoning_gym, gsm8k_hash, or module:function (default boxed)",
    )
    parser.add_argument(
        "--own-tasks", nargs="*", default=[], metavar="MODULE:FUNCTION", help="tasks that are functions of the user"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes for costly comparisons (default 1)")
    parser.add_argument("--timeout-s", type=float, default=5.0, help="CPU seconds per comparison (default 5)")
    parser.add_argument("--memory-mb", type=int, default=2048, help="MiB per comparison (default 2048)")
    args = parser.parse_args()

    from srt.answers import Grader
    from srt.evaluation.scoring import score_file

    limits = (args.timeout_s, args.memory_mb, args.workers)
    with Grader(args.preset, args.extractor, "math", *limits, own_tasks=args.own_tasks) as grader:
        summary = score_file(args.samples, args.problems, args.scores, args.groups, grader)
    print("\n".join(summary.lines()))


if __name__ == "__main__":
    run_cli(main)
