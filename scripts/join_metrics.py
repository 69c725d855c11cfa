"""Join the metrics of a run's segments into one table, and as CSV for people."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--segments", required=True, type=Path, nargs="+", help="metrics of the segments, in order")
    parser.add_argument("--out", required=True, type=Path, help="metrics of the run (parquet); a .csv beside it")
    args = parser.parse_args()

    from srt.common.io import write_csv, write_parquet
    from srt.training.training_set import join_metrics

    frame, metadata = join_metrics(args.segments)
    write_parquet(args.out, frame, metadata)
    write_csv(args.out.with_suffix(".csv"), frame)


if __name__ == "__main__":
    run_cli(main)
