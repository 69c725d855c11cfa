"""Write the start and the peak of runs under both gradings (CSV): nothing is sampled again (docs/answers.md)."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--spec", required=True, help="JSON: results, preset, extractor, runs (as the workflow makes it)"
    )
    parser.add_argument("--problems", required=True, type=Path, nargs="+", help="tables with the references (parquet)")
    parser.add_argument("--workers", type=int, default=1, help="processes for costly comparisons (default 1)")
    parser.add_argument("--timeout-s", type=float, default=5.0, help="CPU seconds per comparison (default 5)")
    parser.add_argument("--memory-mb", type=int, default=2048, help="MiB per comparison (default 2048)")
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.answers import Grader
    from srt.common.io import parse_spec, write_csv
    from srt.evaluation.both_gradings import both_gradings
    from srt.evaluation.scoring import read_references

    spec = parse_spec(args.spec, ["results", "preset", "extractor", "runs"])
    other = {"clean": "authors", "authors": "clean"}[spec["preset"]]
    limits, tasks = (args.timeout_s, args.memory_mb, args.workers), spec.get("own_tasks", ())
    with Grader(other, spec["extractor"], "math", *limits, own_tasks=tasks) as grader:
        write_csv(args.out, both_gradings(spec, read_references(args.problems), grader))


if __name__ == "__main__":
    run_cli(main)
