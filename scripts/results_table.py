"""Write the table of all evaluations (CSV): avg@n, maj@n and gains over the base model, with intervals."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON (or @FILE): results, runs (srt.artefacts.evaluations)")
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.artefacts.evaluations import expand_evaluations
    from srt.common.io import parse_spec, write_csv
    from srt.metrics.results_table import results_table

    write_csv(args.out, results_table(expand_evaluations(parse_spec(args.spec, ("results", "runs")))))


if __name__ == "__main__":
    run_cli(main)
