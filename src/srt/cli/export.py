"""Write stored evaluations in the format of another program; nothing is sampled or graded again.

srt export --format lm-eval --results results/smoke --suite core --out exported base/qwen srt-s1/step-100

Checkpoints: without names, each that was evaluated on the suite. lm-eval: the files of lm-evaluation-harness,
results_*.json and samples_*.jsonl with every response. hub: a folder with the model and one with its responses, each
with a card, as the Hugging Face hub takes them; nothing is uploaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--format", required=True, choices=["lm-eval", "hub"], help="the other program")
    parser.add_argument("--results", required=True, type=Path, metavar="FOLDER", help="results folder")
    parser.add_argument("--suite", required=True, help="suite, or data set that was sampled by itself")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write to")
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="base/MODEL or RUN/step-N; default: all")


def run(args: argparse.Namespace) -> None:
    """Export each checkpoint and print the files."""
    from srt.common.errors import SrtError, nearest
    from srt.results import Results, hub, lm_eval

    results = Results(args.results)
    there = results.evaluations()
    known = there[there["suite"] == args.suite]["checkpoint"].tolist()
    if not known:
        near = nearest(args.suite, there["suite"].unique())
        raise SrtError(f"{args.results} has no evaluation on '{args.suite}'{near}: make it with snakemake all_eval")
    for checkpoint in args.checkpoints or known:
        export = hub.export if args.format == "hub" else lm_eval.export
        for file in export(results, checkpoint, args.suite, args.out):
            print(file)
