"""Stored responses for training without rollouts: the majority's (SFT), or pairs by votes (DPO, ScPO)."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, type=Path, help="raw samples of the teacher (parquet)")
    parser.add_argument("--scores", required=True, type=Path, help="their scores (parquet); true answers are not read")
    parser.add_argument(
        "--spec", required=True, help="JSON: kind (sft or pairs), seed, and threshold, responses or margin"
    )
    parser.add_argument("--out", required=True, type=Path, help="chosen responses to write (parquet)")
    args = parser.parse_args()

    from srt.common.io import parse_spec
    from srt.labels.preferences import make_preferences

    counts = make_preferences(args.samples, args.scores, parse_spec(args.spec, ("kind", "seed")), args.out)
    print(f"{counts['responses']} responses to {counts['used']} of {counts['problems']} problems")


if __name__ == "__main__":
    run_cli(main)
