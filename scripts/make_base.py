"""Make a base model: train a tiny one, copy a local folder, or fetch a pinned revision from the hub."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--name", required=True, help="key of the model, for messages")
    parser.add_argument("--spec", required=True, help="JSON of the model's entry in models.yaml")
    parser.add_argument("--out", required=True, type=Path, help="model folder to write")
    args = parser.parse_args()

    from srt.common.io import parse_spec

    spec = parse_spec(args.spec, ["source"])
    from srt.models.base_models import make

    make(args.name, spec, args.out)


if __name__ == "__main__":
    run_cli(main)
