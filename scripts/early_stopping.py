"""Write where early stopping would stop each run that has a validation set (CSV), and what that keeps."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON: results, runs (as the workflow makes it)")
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import parse_spec, write_csv
    from srt.metrics.early_stopping import early_stopping

    write_csv(args.out, early_stopping(parse_spec(args.spec, ["results", "runs"])))


if __name__ == "__main__":
    run_cli(main)
