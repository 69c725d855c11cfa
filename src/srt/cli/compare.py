"""Compare two runs of a configuration: specs key by key, metrics at common steps, final evaluations.

srt compare gt_math12k-s1 srt_math12k-s1

Differences are the second run minus the first. On evaluations they are paired by problem, with a 95 % interval. For a
run in progress, the metrics so far are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srt.cli.shared import add_configfile, configuration, table

if TYPE_CHECKING:
    import pandas as pd

    from srt.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="runs with their seed, such as srt_math12k-s1")


def run(args: argparse.Namespace) -> None:
    """Print the three comparisons."""
    from srt.artefacts.specs import train_spec
    from srt.common.errors import SrtError, nearest

    config = configuration(args)
    known = [instance for name in config.runs for instance in config.instances(name)]
    if args.runs[0] == args.runs[1]:
        raise SrtError("name two different runs")
    for name in args.runs:
        if name not in known:
            raise SrtError(f"{args.configfile[-1]} has no run '{name}'{nearest(name, known)}")
    print(compare_specs(*(json.loads(train_spec(config, name)) for name in args.runs), args.runs))
    print("\n" + compare_metrics(*(metrics(config, name) for name in args.runs), args.runs))
    print("\n" + compare_evaluations(*(evaluations(config, name) for name in args.runs), args.runs))


# -- specs ----------------------------------------------------------------------------------------------------------


def flat(spec: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted key."""
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def compare_specs(first: dict[str, Any], second: dict[str, Any], names: list[str]) -> str:
    """The keys that differ, and the number of those that do not."""
    import pandas as pd

    one, two = dict(flat(first)), dict(flat(second))
    keys = dict.fromkeys([*one, *two])
    rows = [(key, *(repr(spec[key]) if key in spec else "" for spec in (one, two))) for key in keys]
    rows = [row for row in rows if row[1] != row[2]]
    equal = f"specs: {len(keys) - len(rows)} of {len(keys)} keys are equal"
    return f"{equal}; the others:\n" + table(pd.DataFrame(rows, columns=["key", *names])) if rows else equal


# -- metrics --------------------------------------------------------------------------------------------------------


def metrics(config: Config, name: str) -> pd.DataFrame:
    """The training metrics of a run by step: its joined table, or what the run has written so far."""
    import pandas as pd

    from srt.artefacts.paths import Paths

    paths = Paths(config.results)
    done, so_far = Path(paths.run_metrics(name)), Path(paths.step_metrics(name))
    if done.is_file():
        return pd.read_parquet(done).set_index("step")
    if so_far.is_file():
        return pd.read_json(so_far, lines=True).set_index("step")
    return pd.DataFrame()


def compare_metrics(first: pd.DataFrame, second: pd.DataFrame, names: list[str]) -> str:
    """Per metric: the mean over common steps, the value at the last one, and the first step that differs."""
    import pandas as pd

    steps = first.index.intersection(second.index)
    if steps.empty:
        return "metrics: the two runs have no step in common"
    columns = first.columns.intersection(second.columns)
    one, two = (frame.loc[steps, columns].apply(pd.to_numeric, errors="coerce") for frame in (first, second))
    differs = (one != two) & ~(one.isna() & two.isna())
    rows = {
        "metric": columns,
        **{f"mean {name}": frame.mean().to_numpy() for name, frame in zip(names, (one, two), strict=True)},
        **{f"last {name}": frame.iloc[-1].to_numpy() for name, frame in zip(names, (one, two), strict=True)},
        "differs from": [str(column.idxmax()) if column.any() else "" for _, column in differs.items()],
    }
    head = f"metrics at {len(steps)} common steps, {steps.min()} to {steps.max()}:\n"
    return head + table(pd.DataFrame(rows), **dict.fromkeys(list(rows)[1:5], "{:.4g}"))


# -- evaluations ----------------------------------------------------------------------------------------------------


def evaluations(config: Config, name: str) -> pd.DataFrame:
    """The scored problems of a run's last checkpoint, by data set and problem; empty before the scores are made."""
    import pandas as pd

    from srt.artefacts.paths import Paths
    from srt.artefacts.settings import stored_suite
    from srt.config.runs import checkpoint_at

    paths, entry = Paths(config.results), config.entry(name).run
    suites = [stored_suite(config, entry.model, suite) for suite in entry.suites]
    files = [paths.groups(checkpoint_at(name, entry.checkpoints[-1]), suite) for suite in suites]
    frames = [pd.read_parquet(file) for file in files if Path(file).is_file()]
    if not frames:
        return pd.DataFrame()
    problems = pd.concat(frames).set_index(["dataset", "problem_id"])
    return problems[~problems.index.duplicated()]  # a data set may be in two suites


def compare_evaluations(first: pd.DataFrame, second: pd.DataFrame, names: list[str]) -> str:
    """Per data set: avg@n and maj@n of both last checkpoints, and the paired difference of avg@n."""
    import pandas as pd

    from srt.metrics.intervals import one_run_interval

    both = first.index.intersection(second.index)
    if both.empty:
        return "final evaluations: the last checkpoints have no scored problem in common"
    rows = []
    for dataset, index in both.groupby(both.get_level_values("dataset")).items():
        pair = {name: frame.loc[index] for name, frame in zip(names, (first, second), strict=True)}
        before, after = (frame["pass_rate"].to_numpy(float) for frame in pair.values())
        mean, low, high = one_run_interval(after - before, share=False)
        rows.append(
            {
                "data set": dataset,
                "problems": len(index),
                **{f"avg {name}": frame["pass_rate"].mean() for name, frame in pair.items()},
                **{f"maj {name}": frame["majority_correct"].astype(float).mean() for name, frame in pair.items()},
                "difference of avg [95 %]": f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            }
        )
    frame = pd.DataFrame(rows)
    return "final evaluations:\n" + table(frame, **dict.fromkeys(list(frame.columns)[2:6], "{:.3f}"))
