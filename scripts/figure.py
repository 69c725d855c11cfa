"""Draw one figure: PREFIX.pdf, PREFIX.png and PREFIX.csv from a resolved spec."""

from _script import argument_parser, run_cli

from srt.figures import KINDS, render


def main() -> None:
    kinds = "\n".join(f"  {name:<10} {what}" for name, what in KINDS.items())
    parser = argument_parser(__doc__, f"kinds:\n{kinds}")
    parser.add_argument("--spec", required=True, help="the figure's spec as JSON, or @FILE that holds it")
    parser.add_argument("--out-prefix", required=True, help="outputs without suffix: results/figures/fig2")
    args = parser.parse_args()

    from srt.common.io import parse_spec

    for path in render(parse_spec(args.spec), args.out_prefix):
        print(path)


if __name__ == "__main__":
    run_cli(main)
