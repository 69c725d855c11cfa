"""Write table and figure of the models in `evaluate`: OUT_TABLE.csv and .md, OUT_FIGURE.pdf and .png."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON (or @FILE): results, evaluate, k")
    parser.add_argument("--out-table", required=True, help="the tables without suffix: results/tables/evaluate")
    parser.add_argument("--out-figure", required=True, help="the figure without suffix: results/figures/evaluate")
    args = parser.parse_args()

    from srt.common.atomic_files import atomic_path
    from srt.common.io import parse_spec, write_csv, write_text
    from srt.figures.checkpoints import draw_checkpoints
    from srt.metrics.checkpoint_table import checkpoint_table, to_markdown

    table = checkpoint_table(parse_spec(args.spec, ("results", "evaluate", "k")))
    pictures = draw_checkpoints(table)
    write_csv(Path(f"{args.out_table}.csv"), table)
    write_text(Path(f"{args.out_table}.md"), to_markdown(table))
    for suffix, content in pictures.items():
        with atomic_path(Path(f"{args.out_figure}.{suffix}")) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    run_cli(main)
