"""Draw one figure: PREFIX.pdf, PREFIX.png and PREFIX.csv from a resolved spec."""

from __future__ import annotations

import argparse

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli
from srt.figures import KINDS, render
from srt.figures.spec import read_spec


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="kinds:\n" + "\n".join(f"  {name:<10} {what}" for name, what in KINDS.items()),
    )
    parser.add_argument("--spec", required=True, help="the figure's spec as JSON, or @FILE that holds it")
    parser.add_argument("--out-prefix", required=True, help="outputs without suffix: results/figures/fig2")
    args = parser.parse_args()
    for path in render(read_spec(args.spec), args.out_prefix):
        print(path)


if __name__ == "__main__":
    run_cli(main)
