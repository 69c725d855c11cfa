"""Curriculum: the easiest part of a training set by pass rate or by majority frequency of the base model."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--groups", required=True, type=Path, help="scored groups of the base model (parquet)")
    parser.add_argument("--by", required=True, choices=["pass_rate", "majority_frequency"], help="metric of easiness")
    parser.add_argument("--fraction", type=float, default=1 / 3, help="share of problems to keep (default 1/3)")
    parser.add_argument("--out", required=True, type=Path, help="chosen problem ids to write (parquet)")
    args = parser.parse_args()

    from srt.common.io import write_parquet
    from srt.labels.curriculum import easiest
    from srt.labels.groups import read_groups

    groups = read_groups(args.groups)
    chosen = easiest(groups, args.by, args.fraction)
    write_parquet(args.out, chosen, {"by": args.by, "fraction": args.fraction, "groups": args.groups.name})
    print(f"{len(chosen)} of {len(groups)} problems, {args.by} from {chosen[args.by].max():.3f} "
          f"to {chosen[args.by].min():.3f}")  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
