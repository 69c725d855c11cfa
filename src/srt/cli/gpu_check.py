"""Check training and sampling on this machine's GPU, and measure how fast they are (docs/gpu.md).

Runs the real trainer and engines on a random model, in parts that each pass, fail or say why they are not possible
here. Needs no network, Snakemake, DeepSpeed or vLLM; without the last two their parts are left out. `snakemake plan`
reads the file that it writes (key `plan.measured`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.common.errors import SrtError, nearest

SIZES = ("tiny", "135m", "1.5b", "7b")  # those of srt.gpu_check.random_model, which need torch


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--size", choices=SIZES, help="shape of the model; default: 1.5b if it fits the GPU, else less")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run, by the beginning of their names")
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N", help="of the whole check (default: 8)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON to write (default: benchmarks/results/gpu_check_GPU.json)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the parts; 1 if one fails."""
    from srt.gpu_check.registry import PARTS
    from srt.gpu_check.report import default_out, line, table
    from srt.gpu_check.run import Check, fitting_size, look

    for wanted in args.only or ():
        if not any(name.startswith(wanted) for name in PARTS):
            raise SrtError(f"--only: no part is called '{wanted}'{nearest(wanted, PARTS)}")
    names = [name for name in PARTS if not args.only or name.startswith(tuple(args.only))]
    gpu, gpu_bytes = look()
    size, out = args.size or fitting_size(gpu_bytes), args.out or default_out(gpu)
    print(f"{gpu or 'no GPU: on the CPU'}, size {size}, {len(names)} parts", flush=True)
    report = Check(size, gpu, args.minutes, lambda verdict: print(line(verdict), flush=True)).run(names)
    if figures := table(report):
        print(f"\n{figures}")
    report.write(out)
    print(f"\n{out}" + (f", and what the parts printed: {out.with_suffix('.log')}" if report.failed else ""))
    return int(report.failed)
