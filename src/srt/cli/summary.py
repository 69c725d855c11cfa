"""Print the base model and the last step of every run, and models without a run, from the table of all evaluations.

With --all-settings also the evaluations on disk that were sampled with other settings than the configuration's, each
row with its temperature and n; gains are those within the same settings.

With --require-gain RUN DATASET only one line, on this run. The exit code is 1 unless its avg@n rose above the base
model's by more than its paired 95 % interval: the sign that a small run has really learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from srt.cli.shared import add_configfile, configuration, table

if TYPE_CHECKING:
    import pandas as pd

    from srt.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--all-settings", action="store_true", help="also evaluations with other sampling settings")
    choice.add_argument("--require-gain", nargs=2, metavar=("RUN", "DATASET"), help="fail unless this run gained")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a required gain is not there."""
    import pandas as pd

    from srt.artefacts.evaluations import BASE
    from srt.artefacts.paths import Paths
    from srt.common.errors import SrtError
    from srt.metrics.results_table import SETTINGS

    config = configuration(args)
    file = Path(Paths(config.results).table("results"))
    if not args.all_settings and not file.is_file():
        raise SrtError(f"{file} does not exist: make it with snakemake results_table")
    results = all_settings(config) if args.all_settings else pd.read_csv(file)
    evaluated = results["run"].str.startswith(BASE)  # without a run
    last = results[~evaluated & (results["step"] == results.groupby("run")["step"].transform("max"))]
    told = [key for key in ("suite", *SETTINGS) if key in results]
    told += ["n"] if args.all_settings or results["n"].nunique() > 1 else []
    if args.require_gain:
        return gained(last, *args.require_gain, file)
    base = results[~evaluated & (results["step"] == 0)].drop_duplicates(["dataset", *told]).assign(run="base model")
    shown = pd.concat([base, last, results[evaluated]])
    n = "n" if "n" in told else str(results["n"].iloc[0])
    gain = [
        f"{row.gain:+.3f} [{row.gain_lo:+.3f}, {row.gain_hi:+.3f}]" if row.step else "" for row in shown.itertuples()
    ]
    columns = {
        "run": "run",
        "step": "step",
        "dataset": "data set",
        **{key: key for key in told},
        "avg": f"avg@{n}",
        "maj": f"maj@{n}",
    }
    shown = shown[list(columns)].rename(columns=columns).assign(**{"gain over base [95 %]": gain})
    print(table(shown, **{f"avg@{n}": "{:.3f}", f"maj@{n}": "{:.3f}"}))
    return 0


def gained(last: pd.DataFrame, name: str, dataset: str, file: Path) -> int:
    """Print whether a run gained on a data set; 1 if it did not, beyond the interval."""
    from srt.common.errors import SrtError, nearest

    found = last[(last["run"] == name) & (last["dataset"] == dataset)]
    if found.empty:
        wrong, known = (dataset, last["dataset"]) if name in set(last["run"]) else (name, last["run"])
        raise SrtError(f"{file} has no row of run '{name}' on '{dataset}'{nearest(wrong, set(known))}")
    row = next(found.itertuples())
    print(
        f"{name} {'learned' if row.gain_lo > 0 else 'did NOT gain beyond the interval'}: avg@{row.n} on {dataset} "
        f"{row.avg - row.gain:.3f} -> {row.avg:.3f} in {row.step} steps, gain {row.gain:+.3f} "
        f"[{row.gain_lo:+.3f}, {row.gain_hi:+.3f}]"
    )
    return 0 if row.gain_lo > 0 else 1


def all_settings(config: Config) -> pd.DataFrame:
    """The rows of the table of all evaluations for the evaluations on disk, whatever settings they have.

    Those of a checkpoint that has been trained again since are left out.
    """
    import pandas as pd

    from srt.artefacts.evaluations import kept_evaluations
    from srt.artefacts.paths import Paths
    from srt.common.errors import SrtError
    from srt.common.io import parquet_metadata
    from srt.metrics.results_table import results_table
    from srt.models.checkpoint import fingerprint

    paths, frames = Paths(config.results), []
    for name, rows in kept_evaluations(config).items():
        present = [
            row
            for row in rows
            for file in map(Path, row["groups"])
            if parquet_metadata(file).get("checkpoint") == fingerprint(paths.checkpoint(paths.evaluated(file)))
        ]
        if present:
            frames.append(results_table(present, settings="all").assign(suite=name))
    if not frames:
        raise SrtError(f"{config.results} has no evaluations yet: make them with snakemake all_eval")
    return pd.concat(frames, ignore_index=True).sort_values(["run", "dataset", "step"], kind="stable")
