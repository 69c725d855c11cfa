"""Print what a configuration costs before it is paid: jobs, GPU-hours, wall time, disk (docs/cost.md).

Reads the configuration and what is in its results folder already; starts nothing. `snakemake plan` does the same with
what Snakemake's own --config changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--configfile", type=Path, help="configuration, such as config/config.yaml")
    source.add_argument("--resolved", type=Path, help="resolved configuration, as the workflow writes it (config.json)")
    parser.add_argument("--seeds", type=int, help="runs that list no seeds have so many (only with --configfile)")
    parser.add_argument("--partitions", type=int, nargs="+", help="numbers of partitions to show a wall time for")
    parser.add_argument("--out", type=Path, help="folder to write plan.csv (by target) and plan.json to")
    args = parser.parse_args()

    from srt.common.errors import SrtError
    from srt.common.io import write_csv, write_json
    from srt.config import load_config, read_resolved, read_yaml
    from srt.plan.tables import make_plan, to_json
    from srt.plan.text import to_text

    if args.seeds is not None and (args.seeds < 1 or not args.configfile):
        raise SrtError("--seeds must be at least 1, and goes with --configfile")
    if args.configfile:
        raw = read_yaml(args.configfile) | ({"seeds": args.seeds} if args.seeds else {})
        config = load_config(raw, Path.cwd(), str(args.configfile), [args.configfile])
    else:
        config = read_resolved(args.resolved)
    if args.partitions:
        if min(args.partitions) < 1:
            raise SrtError("--partitions must be at least 1")
        config = config.model_copy(update={"plan": config.plan.model_copy(update={"partitions": args.partitions})})
    plan = make_plan(config)
    print(to_text(plan), end="")
    if args.out:
        write_csv(args.out / "plan.csv", plan.targets)
        write_json(args.out / "plan.json", to_json(plan))


if __name__ == "__main__":
    run_cli(main)
