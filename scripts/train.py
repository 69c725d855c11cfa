"""Train one segment of a run: from a checkpoint (or the base model) to the next one.

An interrupted call resumes from its own last saved state when it is repeated. Exit codes: 0 done, 2 wrong input, 75
stopped by SIGTERM or the time budget with the state saved. On several GPUs, start it with launch.py --gpus N --
scripts/train.py --segment FILE.
"""

import os
import textwrap
from pathlib import Path

from _script import argument_parser, run_cli


def keys_of_a_segment() -> str:
    """What a segment file may contain, for --help."""
    from srt.training.segment import DataFiles, SegmentFile

    lines = ["keys of FILE (all but the optional ones are needed):"]
    for model, indent in ((SegmentFile, "  "), (DataFiles, "  data.")):
        for name, field in model.model_fields.items():
            text = f"{field.description}" if field.is_required() else f"optional: {field.description}"
            lines.append(textwrap.fill(text, 110, initial_indent=f"{indent + name:26} ", subsequent_indent=" " * 27))
    return "\n".join(lines)


def main() -> None:
    parser = argument_parser(__doc__, keys_of_a_segment())
    parser.add_argument("--segment", required=True, type=Path, metavar="FILE", help="JSON: what to train, and where")
    args = parser.parse_args()

    from srt.cluster.launch import time_budget
    from srt.common.errors import SrtError
    from srt.distributed.state import check_state
    from srt.training.alarm_action import action_of
    from srt.training.segment import read_segment
    from srt.training.training_set import read_training_set

    segment = read_segment(args.segment)
    segment = segment.model_copy(update={"minutes": time_budget(segment.minutes)})
    files, spec = segment.data, segment.spec
    data, truth = read_training_set(
        files.problems, spec["reward"], files.subset, files.labels, action_of(spec), files.preferences,
        spec.get("reward_labels"),
        label_share=spec["train"].get("label_share"), seed=spec["seed"],
    )  # fmt: skip
    if segment.resume is not None:
        ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        progress = check_state(segment.resume, spec, ranks, rank)  # a rank that finds damage ends all
        if progress["step"] != segment.start:
            raise SrtError(
                f"{segment.resume} is the state of step {progress['step']}, not of start {segment.start}: correct one"
            )

    from srt.distributed.world import shutdown  # after the checks: torch and DeepSpeed take seconds
    from srt.training.run import run_segment

    try:
        run_segment(segment, data, truth)
    finally:
        shutdown()


if __name__ == "__main__":
    run_cli(main)
