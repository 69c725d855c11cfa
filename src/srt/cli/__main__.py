"""`srt COMMAND`: finds the command's module, which is imported only then, so that `srt --help` is instant.

A module of a command has a docstring (the start of its help), `options(parser)`, which adds its options, and
`run(args)`, which returns the exit code or None for 0.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import textwrap
from typing import NoReturn

from srt.common.errors import SrtError, nearest, run_cli

COMMANDS = {
    "plan": "show what a configuration costs: jobs, GPU-hours, wall time, disk",
    "check": "find problems that would stop a run: versions, data files, models, results folder",
    "stage": "fill a folder with weights, data and wheels for machines without internet",
    "watch": "run a workflow and show how long it still takes",
    "prompt": "show one prompt as a model receives it, with its token ids",
    "worth": "say from a few samples whether self-training can pay: maj@n against avg@n",
    "summary": "show the base model and the last step of every run",
    "compare": "compare two runs: specs, metrics, final evaluations",
    "claims": "show the paper's claims and their verdicts so far",
    "power": "show which claims the configured seeds and problems can decide",
    "coverage": "simulate how often the intervals of claims cover",
    "adopt": "adopt results that have no record of their origin",
    "rename": "keep the results of a run whose name has changed",
    "prune": "delete models of earlier checkpoints that nothing needs any more",
    "export": "write stored evaluations for lm-evaluation-harness or the Hugging Face hub",
    "regrade": "grade rollouts of another project and compare the verdicts",
    "miniature": "make docs/miniature from a finished miniature run",
    "gpu-check": "check training and sampling on this machine's GPU, and measure them",
    "docs": "make the pages of docs/config and the schemas from src/srt/config",
}


def usage() -> str:
    """The help of `srt` itself."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return (
        "usage: srt COMMAND [OPTIONS]    (srt COMMAND --help explains a command)\n\n"
        "Files are made by Snakemake (`snakemake --list` names its targets); these commands do everything else:\n\n"
        + "\n".join(lines)
        + "\nRun them in the repository root. Exit codes: 0 done, 1 a check failed, 2 wrong input.\n"
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments."""
        raise SrtError(f"{self.prog}: {message}: {self.prog} --help explains the options")


def _wrapped(docstring: str) -> str:
    """The paragraphs of a docstring in the width of the terminal; commands keep their lines."""
    width = min(shutil.get_terminal_size().columns, 122) - 2  # as argparse wraps the options
    paragraphs = docstring.strip().split("\n\n")
    return "\n\n".join(text if text.startswith("srt ") else textwrap.fill(text, width) for text in paragraphs)


def dispatch(argv: list[str]) -> int | None:
    """Run the command that `argv` names; return its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        raise SrtError(f"srt has no command '{name}'{nearest(name, COMMANDS)}: srt --help lists them")
    command = importlib.import_module(f"srt.cli.{name.replace('-', '_')}")
    parser = _Parser(
        prog=f"srt {name}",
        description=_wrapped(command.__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.options(parser)
    try:
        code = command.run(parser.parse_args(rest))
        sys.stdout.flush()
    except BrokenPipeError:  # `srt plan | head`: nobody reads on, and Python would complain once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def main() -> None:
    """The console script."""
    run_cli(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
