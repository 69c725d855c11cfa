"""torchrun for scripts/launch.py: as `python -m torch.distributed.run`, with the workers' exit code
(srt.cluster.torchrun)."""

from __future__ import annotations

import sys

import _bootstrap  # noqa: F401

from srt.cluster.torchrun import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
