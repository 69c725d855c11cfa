"""Contamination audit: compare training with test sets, and recompute results on the clean test questions."""

import argparse
from pathlib import Path

from _script import argument_parser, run_cli

EPILOG = """\
examples:
  audit.py overlap --problems data/dapo.parquet data/amc23.parquet --train dapo --test amc23 --out audit/
  audit.py results --spec @evaluations.json --clean audit/clean_rows.parquet --out tables/decontaminated.csv

docs/data.md has the definition of a match and the columns of the tables.
"""


def parser() -> argparse.ArgumentParser:
    p = argument_parser(__doc__, EPILOG)
    commands = p.add_subparsers(dest="command", required=True)
    overlap = commands.add_parser("overlap", help="tables and picture of all exact and near matches")
    overlap.add_argument(
        "--problems", type=Path, nargs="+", required=True, metavar="PARQUET",
        help="problem tables, each named after its data set; a manifest (.json) beside a table is read as well",
    )  # fmt: skip
    overlap.add_argument("--train", nargs="+", required=True, metavar="SET", help="training sets")
    overlap.add_argument("--test", nargs="+", required=True, metavar="SET", help="test sets")
    overlap.add_argument("--generated", nargs="*", default=[], metavar="SET", help="sets for exact matches only")
    overlap.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write into")
    results = commands.add_parser("results", help="avg@n and maj@n on the clean test questions")
    results.add_argument("--spec", required=True, help="JSON (or @FILE) of the runs (srt.audit.resolve.audit_spec)")
    results.add_argument("--clean", type=Path, required=True, metavar="PARQUET", help="clean_rows.parquet")
    results.add_argument("--out", type=Path, required=True, metavar="CSV", help="table to write")
    return p


def main() -> None:
    args = parser().parse_args()
    if args.command == "overlap":
        make_overlap(args)
    else:
        make_results(args)


def make_overlap(args: argparse.Namespace) -> None:
    from srt.audit.audit_tables import audit
    from srt.audit.overlap_plot import draw_overlap
    from srt.common.progress import log

    paths = {path.name.removesuffix(".parquet"): path for path in args.problems}
    manifests = {name: path.with_suffix(".json") for name, path in paths.items() if path.with_suffix(".json").is_file()}
    found = audit(paths, args.train, args.test, args.generated, manifests)
    found.write(args.out)
    draw_overlap(found.overlap, args.out / "overlap")
    for row in found.overlap.itertuples():
        if row.contaminated and row.train != row.test:
            log(
                f"{row.test}: {row.contaminated} of {row.test_rows} in {row.train} "
                f"({row.exact} exact, {row.near} near; {row.same_answer} with the same answer)"
            )
    for (name, fault, action), count in found.faults.groupby(["dataset", "fault", "action"], sort=False).size().items():
        log(f"{name}: {count} rows: {fault} ({action})")


def make_results(args: argparse.Namespace) -> None:
    from srt.audit.decontaminate import decontaminated
    from srt.audit.resolve import SPEC, expand
    from srt.common.io import parse_spec, read_parquet, write_csv

    evaluations = expand(parse_spec(args.spec, SPEC))
    write_csv(args.out, decontaminated(evaluations, read_parquet(args.clean).to_pandas()))


if __name__ == "__main__":
    run_cli(main)
