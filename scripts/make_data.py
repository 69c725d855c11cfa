"""Make one problem table from a data set entry: generate, read a file, or download; then check and select rows."""

from pathlib import Path

from _script import argument_parser, run_cli

EPILOG = """\
examples:
  make_data.py --name sums --out data/sums.parquet --manifest data/sums.json --spec \\
    '{"source": "reasoning_gym", "name": "chain_sum", "params": {"min_digits": 2, "max_digits": 2},
      "size": 500, "split": "test"}'
  make_data.py --name amc --out data/amc.parquet --manifest data/amc.json --local-dir my/files --spec \\
    '{"source": "local", "path": "tests.parquet", "filter": {"set": "amc24"}}'

The entry's keys are those of config/datasets.yaml; docs/data.md explains them. Exit codes: 0 done, 2 wrong input
(one line on stderr names it and the fix), 130 interrupted. Nothing half-written is kept.
"""


def main() -> None:
    parser = argument_parser(__doc__, EPILOG)
    parser.add_argument("--name", required=True, help="the data set's name, as in config/datasets.yaml")
    parser.add_argument("--spec", required=True, metavar="JSON", help="the entry of config/datasets.yaml, as JSON")
    parser.add_argument(
        "--local-dir",
        type=Path,
        metavar="DIR",
        help="where relative paths of local entries start, and where mirrors of hub repositories are "
        "(DIR/owner/name/revision); default: the current folder, no mirrors",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="PARQUET", help="the problem table to write")
    parser.add_argument(
        "--manifest",
        required=True,
        type=Path,
        metavar="JSON",
        help="the manifest to write: counts, dropped rows, fingerprint",
    )
    args = parser.parse_args()

    from srt.common import io
    from srt.common.progress import log
    from srt.config.datasets import parse_dataset
    from srt.data import load_with_report, write_problems

    config = parse_dataset(args.name, io.parse_spec(args.spec))
    loaded = load_with_report(config, args.name, args.local_dir)
    write_problems(args.out, loaded.table, args.name)
    io.write_json(args.manifest, loaded.manifest(args.name, config))
    for reason, ids in sorted(loaded.dropped.items()):
        log(f"{args.name}: dropped {len(ids)} rows: {reason} ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})")
    log(f"{args.name}: {loaded.table.num_rows} problems -> {args.out}")


if __name__ == "__main__":
    run_cli(main)
