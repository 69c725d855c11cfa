"""Inspect a compute node (look, inside a job), and print what the jobs found (show)."""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("look", help="inspect this node and write what it has")
    look.add_argument("--partition", required=True, help="name of the partition, for the table")
    look.add_argument("--gpus", required=True, type=int, help="GPUs that the job requested")
    look.add_argument("--scratch", required=True, type=Path, help="folder whose speed is measured")
    look.add_argument("--out", required=True, type=Path, help="JSON to write")
    show = commands.add_parser("show", help="print such files as one table")
    show.add_argument("found", nargs="+", type=Path, help="JSON files that `look` wrote")
    args = parser.parse_args()

    from srt.cluster.node_check import inspect_node, table
    from srt.common.io import read_json, write_json

    if args.command == "look":
        write_json(args.out, inspect_node(args.partition, args.gpus, args.scratch, args.out.parent))
    else:
        print(table([read_json(path) for path in args.found]))


if __name__ == "__main__":
    run_cli(main)
