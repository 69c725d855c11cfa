"""Write what a run of the workflow has cost, by rule and base model, from its benchmark files (docs/cost.md)."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--resolved", required=True, type=Path, help="resolved configuration (config.json)")
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import write_csv
    from srt.config import read_resolved
    from srt.plan.spent import spent

    write_csv(args.out, spent(read_resolved(args.resolved)))


if __name__ == "__main__":
    run_cli(main)
