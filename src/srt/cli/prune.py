"""Delete models of earlier checkpoints that no figure, table, claim, page, export or later run needs any more.

srt prune --configfile config/smoke.yaml            says what would go, and how many GB; deletes nothing
srt prune --configfile config/smoke.yaml --delete   deletes it

A model goes if all samples that the configuration asks for are made from it. The last model of each run stays, as do
all samples, states and tables: no job is planned because of it, and runs can be extended. A suite that is added later
needs the models again, and then their runs are trained again. With `keep_models: needed` the workflow does the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("--delete", action="store_true", help="delete them; without it nothing is deleted")
    parser.add_argument("--all", action="store_true", help="also list the models that stay, and why")


def run(args: argparse.Namespace) -> None:
    """List the models, then delete those that nothing needs, if asked."""
    from srt.common.atomic_files import remove_folder
    from srt.plan.prune import Pruner
    from srt.workflow.results_lock import ResultsLock

    config = configuration(args)
    if args.delete:
        ResultsLock(Path(config.results)).acquire()
    found = Pruner(config).models()
    gone, kept = [model for model in found if not model.needed], [model for model in found if model.needed]
    for model in gone:
        print(f"{model.bytes / 1e9:9.3f} GB  {model.path}")
        if args.delete:
            remove_folder(model.path)
    for model in kept if args.all else ():
        print(f"     stays    {model.path}: {model.needed}")
    size, stays = sum(model.bytes for model in gone) / 1e9, sum(model.bytes for model in kept) / 1e9
    done = "deleted" if args.delete else "can go"
    print(f"{len(gone)} models of earlier checkpoints {done}, {size:,.3f} GB; {len(kept)} are needed, {stays:,.3f} GB")
    if gone and not args.delete:
        print("Nothing is deleted without --delete.")
    if kept and not args.all:
        print("--all says why each of the others stays.")
