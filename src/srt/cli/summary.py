"""Print the base model and the last step of every run, from the table of all evaluations.

With --require-gain RUN DATASET the exit code is 1 unless that run's avg@n rose above the base model's by more than its
paired 95 % interval: the sign that a small run has really learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration, table


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--require-gain", nargs=2, metavar=("RUN", "DATASET"), help="fail unless this run gained")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a required gain is not there."""
    import pandas as pd

    from srt.artefacts.paths import Paths
    from srt.common.errors import SrtError, nearest

    file = Path(Paths(configuration(args).results).table("results"))
    if not file.is_file():
        raise SrtError(f"{file} does not exist: make it with snakemake results_table")
    results = pd.read_csv(file)
    last = results[results["step"] == results.groupby("run")["step"].transform("max")]
    base = results[results["step"] == 0].drop_duplicates("dataset").assign(run="base model")
    shown = pd.concat([base, last])
    n = int(results["n"].iloc[0])
    gain = [
        f"{row.gain:+.3f} [{row.gain_lo:+.3f}, {row.gain_hi:+.3f}]" if row.step else "" for row in shown.itertuples()
    ]
    columns = {"run": "run", "step": "step", "dataset": "data set", "avg": f"avg@{n}", "maj": f"maj@{n}"}
    shown = shown[list(columns)].rename(columns=columns).assign(**{"gain over base [95 %]": gain})
    print(table(shown, **{f"avg@{n}": "{:.3f}", f"maj@{n}": "{:.3f}"}))
    if not args.require_gain:
        return 0
    name, dataset = args.require_gain
    found = last[(last["run"] == name) & (last["dataset"] == dataset)]
    if found.empty:
        wrong, known = (dataset, last["dataset"]) if name in set(last["run"]) else (name, last["run"])
        raise SrtError(f"{file} has no row of run '{name}' on '{dataset}'{nearest(wrong, set(known))}")
    gained = bool(found["gain_lo"].iloc[0] > 0)
    print(f"{name} on {dataset}: {'learned' if gained else 'NO GAIN beyond the interval'}")
    return 0 if gained else 1
