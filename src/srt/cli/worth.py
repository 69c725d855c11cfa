"""Say from a few samples whether a model can learn from its own votes on a data set, before anything is trained.

srt worth smollm2 sums --configfile config/smollm2.yaml

It can where the majority of a model's answers is right more often than an answer is. Exit code 1: not shown.
"""

from __future__ import annotations

import argparse

from srt.cli.shared import add_configfile, model_and_data


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)
    parser.add_argument("model", help="key of a model, or a model folder")
    parser.add_argument("data", help="key of a data set, or a problem table (parquet)")
    parser.add_argument("--problems", type=int, default=64, metavar="P", help="problems, drawn at random (%(default)s)")
    parser.add_argument("--n", type=int, default=16, help="responses per problem (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, metavar="T", help="default: the configuration's, else 512")
    parser.add_argument("--suffix", help="text after the problem (default: the model's)")


def run(args: argparse.Namespace) -> int:
    """Print the measures and the verdict."""
    from srt.common.errors import SrtError
    from srt.config.evaluation import SamplingConfig
    from srt.evaluation.worth import measure

    for name, least in (("problems", 2), ("n", 2)):
        if getattr(args, name) < least:
            raise SrtError(f"--{name} must be at least {least}")
    folder, file, config = model_and_data(args)
    known = config is not None and args.model in config.models
    sampling = config.sampling_settings(args.model) if config and known else SamplingConfig(max_new_tokens=512)
    suffix = config.models[args.model].prompt_suffix if config and known else ""
    spec = sampling.model_dump(mode="json") | {
        "n": args.n, "engine": "transformers", "prompt_suffix": suffix if args.suffix is None else args.suffix,
    }  # fmt: skip
    if args.max_new_tokens is not None:
        spec["max_new_tokens"] = args.max_new_tokens
    if config and known and config.models[args.model].prompt:
        spec["prompt"] = config.models[args.model].prompt
    extractor = config.scoring.extractor if config else "boxed"
    own_tasks = config.own_tasks(args.data) if config and args.data in config.datasets else []
    found = measure(spec, folder, file, args.problems, extractor, own_tasks)
    print("\n".join(found.lines()))
    return 0 if found.worth else 1
