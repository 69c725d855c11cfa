"""Check the paper's statements against the tables and write their verdicts: CSV, Markdown and HTML.

Two ways to say what to check: --spec is what the workflow passes; --configfile resolves it from a configuration, and
with --partial, tables that are not made yet make a claim undecided instead of being an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--spec", help="JSON object (or @FILE): results, claims, runs")
    source.add_argument("--configfile", type=Path, help="configuration, such as config/smoke.yaml")
    parser.add_argument("--partial", action="store_true", help="undecided where a table is not made yet")
    parser.add_argument("--out-prefix", help="write PREFIX.csv, PREFIX.md and PREFIX.html; default: print Markdown")
    args = parser.parse_args()

    from srt.claims.check import check_claims
    from srt.claims.verdict_tables import counts, to_frame, to_html, to_markdown
    from srt.common.io import parse_spec, write_csv, write_text

    if args.configfile:
        from srt.claims.resolve import resolve_claims
        from srt.config import load_config, read_yaml

        name = str(args.configfile)
        spec, _ = resolve_claims(load_config(read_yaml(args.configfile), Path.cwd(), name, [args.configfile]))
    else:
        text = Path(args.spec[1:]).read_text(encoding="utf-8") if args.spec.startswith("@") else args.spec
        spec = parse_spec(text, needs=("results", "claims", "runs"))
    checked = check_claims(spec, args.partial)
    if not args.out_prefix:
        print(to_markdown(checked), end="")
        return
    write_csv(f"{args.out_prefix}.csv", to_frame(checked))
    write_text(f"{args.out_prefix}.md", to_markdown(checked))
    write_text(f"{args.out_prefix}.html", to_html(checked, "Claims of the paper"))
    print(f"{len(checked)} claims: {counts(checked)}")


if __name__ == "__main__":
    run_cli(main)
