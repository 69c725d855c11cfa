"""Print the base model and the last step of every run, from the table of all evaluations.

With --require-gain RUN DATASET the exit code is 1 unless that run's avg@n rose above the base model's by more than its
paired 95 % interval: the sign that a small run has really learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, type=Path, help="results.csv of the results_table rule")
    parser.add_argument("--require-gain", nargs=2, metavar=("RUN", "DATASET"), help="fail unless this run gained")
    args = parser.parse_args()

    import pandas as pd

    from srt.common.errors import SrtError

    if not args.table.is_file():
        raise SrtError(f"{args.table} does not exist: run the rule results_table")
    table = pd.read_csv(args.table)
    last = table[table["step"] == table.groupby("run")["step"].transform("max")]
    n = int(table["n"].iloc[0])
    print(f"{'run':<30} {'step':>5} {'data set':<14} {f'avg@{n}':>7} {f'maj@{n}':>7}  gain over base [95 %]")
    base = table[table["step"] == 0].drop_duplicates("dataset")
    for row in [*base.assign(run="base model").itertuples(), *last.itertuples()]:
        gain = f"{row.gain:+.3f} [{row.gain_lo:+.3f}, {row.gain_hi:+.3f}]" if row.step else ""
        print(f"{row.run:<30} {row.step:>5} {row.dataset:<14} {row.avg:>7.3f} {row.maj:>7.3f}  {gain}".rstrip())
    if not args.require_gain:
        return 0
    run, dataset = args.require_gain
    found = last[(last["run"] == run) & (last["dataset"] == dataset)]
    if found.empty:
        raise SrtError(f"{args.table} has no row of run '{run}' on '{dataset}'")
    gained = bool(found["gain_lo"].iloc[0] > 0)
    print(f"{run} on {dataset}: {'learned' if gained else 'NO GAIN beyond the interval'}")
    return 0 if gained else 1


if __name__ == "__main__":
    run_cli(main)
