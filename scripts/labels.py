"""Offline labels: the majority answer of the base model's samples per problem."""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", required=True, type=Path, help="scored groups of the base model (parquet)")
    parser.add_argument("--out", required=True, type=Path, help="labels to write (parquet)")
    args = parser.parse_args()

    from srt.common.io import write_parquet
    from srt.labels.groups import read_groups
    from srt.labels.offline_labels import offline_labels

    labels = offline_labels(read_groups(args.groups))
    write_parquet(args.out, labels, {"groups": args.groups.name})
    known = labels["label"].notna()
    print(f"{known.sum()} labels, {(~known).sum()} problems without an answer, "
          f"{labels.loc[known, 'correct'].mean():.3f} of the labels are correct")  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
