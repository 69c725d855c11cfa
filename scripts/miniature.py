"""Make the page of the miniature run: collect tables and figures of a finished run, fill the page's template from them.

miniature.py                       collect from results/mini to docs/miniature, then fill docs/miniature/README.md
miniature.py --fill-only           fill the page from the CSVs that are there
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _bootstrap  # noqa: F401

from srt.common.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, default=Path("config/mini.yaml"), help="configuration of the run")
    parser.add_argument("--out", type=Path, default=Path("docs/miniature"), help="folder of the page and its template")
    parser.add_argument("--fill-only", action="store_true", help="do not collect: fill from the CSVs in --out")
    args = parser.parse_args()

    from srt.common.errors import SrtError
    from srt.common.io import write_text
    from srt.config import load_config, read_yaml
    from srt.report.miniature_page import fill
    from srt.report.miniature_tables import collect

    template = args.out / "template.md"
    if not template.is_file():
        raise SrtError(f"{template} does not exist: --out names the folder of the page and its template")
    if not args.fill_only:
        collect(load_config(read_yaml(args.configfile), Path.cwd(), str(args.configfile), [args.configfile]), args.out)
    write_text(args.out / "README.md", fill(template.read_text(encoding="utf-8"), args.out))
    print(args.out / "README.md")


if __name__ == "__main__":
    run_cli(main)
