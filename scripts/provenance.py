"""Write the table of versions, hashes, seeds and fingerprints (CSV) of everything that a workflow has made."""

from pathlib import Path

from _script import ROOT, argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--spec", required=True, help="JSON: config (a hash), models, data, runs (srt.report.provenance)"
    )
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import parse_spec, write_csv
    from srt.report.provenance import SPEC, provenance

    write_csv(args.out, provenance(parse_spec(args.spec, SPEC), ROOT))


if __name__ == "__main__":
    run_cli(main)
