"""Start a script in one process per GPU of the job, on one node or several: launch.py --gpus N -- SCRIPT ..."""

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--gpus", required=True, type=int, help="GPUs of the job, over all nodes (0: one process, CPU)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job")
    parser.add_argument("script", nargs="+", help="Python script and its arguments, after --")
    args = parser.parse_args()

    from srt.cluster.launch import main as launch

    launch(args.gpus, args.nodes, args.script)


if __name__ == "__main__":
    run_cli(main)
