"""Train one segment of a run: from a checkpoint (or the base model) to the next one.

An interrupted call goes on from its own saved state when it is repeated. Exit codes: 0 done, 2 wrong input,
75 stopped by SIGTERM or the time budget with the state saved. Several GPUs: start it with
launch.py --gpus N -- scripts/train.py ...
"""

from pathlib import Path

from _script import argument_parser, run_cli


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--spec", required=True, help="JSON of the run: reward, seed, train (hyperparameters), …")
    parser.add_argument("--base", required=True, type=Path, help="base model: first weights and KL reference")
    parser.add_argument("--problems", required=True, type=Path, help="training problems (parquet)")
    parser.add_argument("--subset", type=Path, help="curriculum: train on these problem ids only (parquet)")
    parser.add_argument("--labels", type=Path, help="offline labels (parquet), for reward or on_alarm offline_labels")
    parser.add_argument("--preferences", type=Path, help="stored responses (parquet), for rewards sft, dpo and scpo")
    parser.add_argument("--resume", type=Path, help="training state of step --start (not for step 0)")
    parser.add_argument("--start", required=True, type=int, help="step of --resume, 0 for the base model")
    parser.add_argument("--stop", required=True, type=int, help="last step of this segment")
    parser.add_argument("--work", required=True, type=Path, help="folder of this segment's own progress and lock")
    parser.add_argument("--model-out", required=True, type=Path, help="checkpoint to write (Hugging Face format)")
    parser.add_argument("--state-out", required=True, type=Path, help="training state to write")
    parser.add_argument("--metrics-out", required=True, type=Path, help="metrics of the segment to write (parquet)")
    parser.add_argument("--save-every", type=int, default=10, help="steps between two saves of the state")
    parser.add_argument("--minutes", type=float, help="time budget; near its end the state is saved and 75 returned")
    parser.add_argument("--logs", type=Path, help="folder of the run's JSON lines and TensorBoard events (--work)")
    parser.add_argument("--vllm-memory", type=float, default=0.3, help="vLLM's share of GPU memory (default 0.3)")
    parser.add_argument("--reference-offload", type=int, choices=(0, 1), default=0, help="1: it waits in host memory")
    parser.add_argument("--engine-sleep", type=int, choices=(0, 1), default=0, help="1: vLLM rests between rollouts")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="processes that share one vLLM engine")
    parser.add_argument("--alarm", nargs="*", default=[], metavar="KEY=VALUE", help="of the collapse alarm")
    args = parser.parse_args()

    from srt.cluster.launch import time_budget
    from srt.common.errors import SrtError
    from srt.common.io import parse_spec
    from srt.config.alarm import AlarmRule
    from srt.distributed.state import check_state
    from srt.training.alarm_action import action_of
    from srt.training.training_set import SPEC, read_training_set

    if not 0 <= args.start < args.stop:
        raise SrtError(f"--start {args.start} must be at least 0 and below --stop {args.stop}")
    if (args.resume is None) != (args.start == 0):
        raise SrtError("--resume belongs to every --start but 0: give the state of that step")
    spec = parse_spec(args.spec, SPEC)
    data, truth = read_training_set(
        args.problems, spec["reward"], args.subset, args.labels, action_of(spec), args.preferences
    )
    if args.resume is not None:
        import os

        ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        found = check_state(args.resume, spec, ranks, rank)  # one that finds damage ends all
        if found["step"] != args.start:
            raise SrtError(f"{args.resume} is the state of step {found['step']}, not of --start {args.start}")

    from srt.distributed.world import shutdown  # after the checks: torch and DeepSpeed take seconds
    from srt.training.trainer import Segment, run_segment

    segment = Segment(
        spec, args.base, args.resume, args.start, args.stop, args.work,
        args.model_out, args.state_out, args.metrics_out, args.save_every, time_budget(args.minutes),
        args.vllm_memory, logs=args.logs, reference_offload=bool(args.reference_offload),
        engine_sleep=bool(args.engine_sleep), tensor_parallel=args.tensor_parallel,
        alarm=AlarmRule.model_validate(dict(pair.split("=", 1) for pair in args.alarm)),
    )  # fmt: skip
    try:
        run_segment(segment, data, truth)
    finally:
        shutdown()


if __name__ == "__main__":
    run_cli(main)
