"""Check the paper's statements against the tables and write their verdicts: CSV, Markdown and HTML."""

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON object (or @FILE): results, claims, runs")
    parser.add_argument("--out-prefix", required=True, help="write PREFIX.csv, PREFIX.md and PREFIX.html")
    args = parser.parse_args()

    from srt.claims.check_claims import check_claims
    from srt.claims.verdict_tables import counts, to_frame, to_html, to_markdown
    from srt.common.io import parse_spec, write_csv, write_text

    checked = check_claims(parse_spec(args.spec, needs=("results", "claims", "runs")))
    write_csv(f"{args.out_prefix}.csv", to_frame(checked))
    write_text(f"{args.out_prefix}.md", to_markdown(checked))
    write_text(f"{args.out_prefix}.html", to_html(checked, "Claims of the paper"))
    print(f"{len(checked)} claims: {counts(checked)}")


if __name__ == "__main__":
    run_cli(main)
