"""Print one problem of a data set as a model receives it: the rendered prompt and its token ids.

srt prompt qwen2_5_math_7b math12k
srt prompt path/to/model path/to/problems.parquet --suffix ' Answer in \\boxed{}.'

Model and data are keys of the configuration, whose files must exist (`snakemake all_models all_data`), or paths. A
warning follows if the prompt begins with two beginning-of-sequence tokens.
"""

from __future__ import annotations

import argparse

from srt.cli.shared import add_configfile, model_and_data


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("model", help="key of a model, or a model folder")
    parser.add_argument("data", help="key of a data set, or a problem table (parquet)")
    parser.add_argument("--problem", metavar="ID", help="id of the problem (default: the first)")
    parser.add_argument("--suffix", help="text after the problem (default: the model's prompt_suffix, or none)")


def run(args: argparse.Namespace) -> None:
    """Print the prompt."""
    from srt.common.errors import SrtError, nearest
    from srt.common.own_code import load
    from srt.common.plain_text import printable
    from srt.data import read_problems
    from srt.data.prompts import fault, render
    from srt.models.loading import read_tokenizer

    folder, file, config = model_and_data(args)
    suffix = args.suffix
    if suffix is None:
        suffix = config.models[args.model].prompt_suffix if config and args.model in config.models else ""
    tokenizer = read_tokenizer(folder, str(folder))
    rows = read_problems(file).select(["id", "problem"]).to_pylist()
    wanted = args.problem or rows[0]["id"]
    problem = next((row["problem"] for row in rows if row["id"] == wanted), None)
    if problem is None:
        raise SrtError(f"{file} has no problem '{wanted}'{nearest(wanted, (row['id'] for row in rows))}")

    own = config.models[args.model].prompt if config and args.model in config.models else None
    turns = load("prompt", own) if own else None
    ids = render(tokenizer, problem, suffix, turns)
    print(f"model    {folder}\nproblem  {wanted} of {file}\n\n{printable(tokenizer.decode(ids))}\n\n{len(ids)} tokens:")
    print("\n".join(f"{token:>8}  {tokenizer.decode([token])!r}" for token in ids))
    if found := fault(tokenizer, ids):
        print(f"\nWARNING: {found}; sampling and training refuse it")
