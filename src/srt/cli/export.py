"""Write stored evaluations in the format of another program; nothing is sampled or graded again.

srt export --format lm-eval --results results/smoke --suite core --out exported base/qwen srt-s1/step-100

Checkpoints: without names, each evaluated on the suite. lm-eval: results_*.json and samples_*.jsonl of
lm-evaluation-harness. hub: the model and its responses, each with a card; nothing is uploaded without --push.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--format", required=True, choices=["lm-eval", "hub"], metavar="FORMAT", help="lm-eval or hub")
    parser.add_argument("--results", required=True, type=Path, metavar="FOLDER", help="results folder")
    parser.add_argument("--suite", required=True, help="suite, or data set that was sampled by itself")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write to")
    parser.add_argument("--licence", metavar="ID", help="hub only: the base model's licence, such as apache-2.0")
    parser.add_argument("--push", metavar="OWNER/NAME", help="hub only: upload to this repository and NAME-rollouts")
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="base/MODEL or RUN/step-N; default: all")


def run(args: argparse.Namespace) -> None:
    """Export each checkpoint and print the files."""
    from srt.common.errors import SrtError, nearest
    from srt.results import Results, hub, lm_eval

    if args.licence is not None and args.format != "hub":
        raise SrtError("--licence belongs to --format hub: leave it out")
    if args.push is not None:
        if not args.licence:
            raise SrtError("--push needs the base model's licence for the card: give --licence, such as apache-2.0")
        if args.format != "hub" or len(args.checkpoints) != 1:
            raise SrtError("--push uploads one checkpoint: give --format hub and the name of one checkpoint")
        hub.check_push(args.push)
    results = Results(args.results)
    there = results.evaluations()
    known = there[there["suite"] == args.suite]["checkpoint"].tolist()
    if not known:
        near = nearest(args.suite, there["suite"].unique())
        raise SrtError(f"{args.results} has no evaluation on '{args.suite}'{near}: make it with snakemake all_eval")
    for checkpoint in args.checkpoints or known:
        if args.format == "hub":
            files = hub.export(results, checkpoint, args.suite, args.out, args.licence or "other")
        else:
            files = lm_eval.export(results, checkpoint, args.suite, args.out)
        for file in files:
            print(file)
        if args.push is not None:
            for address in hub.push(*files, args.push):
                print(address)
