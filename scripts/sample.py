"""Draw n responses per problem from a checkpoint and store them as raw samples, ungraded."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON: n, temperature, top_p, max_prompt_tokens, max_new_tokens, "
                        "engine (transformers or vllm), dtype, seed, threads, prompt_suffix")  # fmt: skip
    parser.add_argument("--checkpoint", required=True, type=Path, help="model folder in Hugging Face format")
    parser.add_argument("--problems", required=True, type=Path, nargs="+", help="problem tables (parquet)")
    parser.add_argument("--out", required=True, type=Path, help="raw samples to write (parquet)")
    parser.add_argument("--gpus", type=int, help="GPUs of the job; 0: use none; by default one that torch sees")
    args = parser.parse_args()

    from srt.cluster.launch import hide_gpus
    from srt.common.io import parse_spec
    from srt.evaluation.sampling import SPEC, sample

    if args.gpus == 0:
        hide_gpus()
    counts = sample(parse_spec(args.spec, SPEC), args.checkpoint, args.problems, args.out)
    print(" ".join(f"{key}={value}" for key, value in counts.items()))


if __name__ == "__main__":
    run_cli(main)
