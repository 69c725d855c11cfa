"""Print one problem of a data set as a model receives it: the rendered prompt and its token ids.

srt prompt qwen2_5_math_7b math12k
srt prompt path/to/model path/to/problems.parquet --suffix ' Answer in \\boxed{}.'

Model and data are keys of the configuration, whose files must exist (`snakemake all_models all_data`), or paths. A
warning follows if the prompt begins with two beginning-of-sequence tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("model", help="key of a model, or a model folder")
    parser.add_argument("data", help="key of a data set, or a problem table (parquet)")
    parser.add_argument("--problem", metavar="ID", help="id of the problem (default: the first)")
    parser.add_argument("--suffix", help="text after the problem (default: the model's prompt_suffix, or none)")


def run(args: argparse.Namespace) -> None:
    """Print the prompt."""
    from srt.artefacts.paths import Paths
    from srt.common.errors import SrtError, nearest
    from srt.common.plain_text import printable
    from srt.data import read_problems
    from srt.data.prompts import fault, render
    from srt.models.loading import read_tokenizer

    folder, file, suffix = Path(args.model), Path(args.data), args.suffix or ""
    if not (folder.is_dir() and file.is_file()):
        config = configuration(args)
        if not folder.is_dir():
            if args.model not in config.models:
                raise SrtError(f"no model '{args.model}'{nearest(args.model, config.models)}, and no such folder")
            folder = Path(Paths(config.results).base_model(args.model))
            suffix = config.models[args.model].prompt_suffix if args.suffix is None else suffix
        if not file.is_file():
            if args.data not in config.datasets:
                raise SrtError(f"no data set '{args.data}'{nearest(args.data, config.datasets)}, and no such file")
            file = Path(Paths(config.results).problems(args.data))
    if not (folder / "config.json").is_file():
        raise SrtError(f"{folder} holds no model: name another folder, or make it with snakemake {folder}")
    tokenizer = read_tokenizer(folder, str(folder))
    rows = read_problems(file).select(["id", "problem"]).to_pylist()
    wanted = args.problem or rows[0]["id"]
    problem = next((row["problem"] for row in rows if row["id"] == wanted), None)
    if problem is None:
        raise SrtError(f"{file} has no problem '{wanted}'{nearest(wanted, (row['id'] for row in rows))}")

    ids = render(tokenizer, problem, suffix)
    print(f"model    {folder}\nproblem  {wanted} of {file}\n\n{printable(tokenizer.decode(ids))}\n\n{len(ids)} tokens:")
    print("\n".join(f"{token:>8}  {tokenizer.decode([token])!r}" for token in ids))
    if found := fault(tokenizer, ids):
        print(f"\nWARNING: {found}; sampling and training refuse it")
