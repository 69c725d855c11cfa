"""Offline labels: the majority answer of a teacher's samples per problem."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--groups", required=True, type=Path, help="scored groups of the teacher (parquet)")
    parser.add_argument("--out", required=True, type=Path, help="labels to write (parquet)")
    args = parser.parse_args()

    from srt.common.io import write_parquet
    from srt.labels.groups import read_groups
    from srt.labels.offline_labels import offline_labels

    labels = offline_labels(read_groups(args.groups))
    write_parquet(args.out, labels, {"groups": args.groups.name})
    known = labels["label"].notna()
    judged = labels.loc[known, "correct"].dropna().astype(float)
    correct = f"{judged.mean():.3f} of the labels are correct" if len(judged) else "no true answers to compare with"
    print(f"{known.sum()} labels, {(~known).sum()} problems without an answer, {correct}")


if __name__ == "__main__":
    run_cli(main)
