"""A process of a check: some parts, one of two ranks, or a run that kills itself. `srt.gpu_check.run` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

from srt.common.io import write_json
from srt.gpu_check.parts import Machine


def main(argv: list[str]) -> None:
    """`--parts RESULTS FOLDER SIZE NAME...`, `--two OUT FOLDER SIZE` or `--kill RUN FOLDER SIZE`."""
    mode, target, folder, size, *names = argv
    check = Machine(size, Path(folder))
    import torch

    if not check.gpu:
        torch.set_num_threads(1)
    if mode == "--parts":
        from srt.gpu_check.registry import perform_all

        perform_all(names, check, Path(target))
    elif mode == "--two":
        from srt.distributed.world import init_world, shutdown
        from srt.gpu_check.steps import in_two

        figures = in_two(check)
        if init_world().main:
            write_json(target, figures)
        shutdown()
    else:
        from srt.gpu_check.resume import run_and_kill

        run_and_kill(check, Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
