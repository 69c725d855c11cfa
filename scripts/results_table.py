"""Write the table of all evaluations (CSV): avg@n, maj@n and gains over the base model, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON (or @FILE): an evaluation spec, or a list of run, label, "
                        "method, seed, step, groups")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="CSV to write")
    args = parser.parse_args()

    from srt.common.io import parse_spec, write_csv
    from srt.metrics.results_table import results_table

    text = Path(args.spec[1:]).read_text(encoding="utf-8") if args.spec.startswith("@") else args.spec
    if text.lstrip().startswith("{"):
        from srt.artefacts.evaluations import expand_evaluations

        rows = expand_evaluations(parse_spec(text, ["results", "runs"]))
    else:
        rows = parse_spec(text, kind=list)
    write_csv(args.out, results_table(rows))


if __name__ == "__main__":
    run_cli(main)
