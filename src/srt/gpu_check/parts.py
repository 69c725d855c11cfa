"""The parts of a check by name, their verdicts, and what they share: a random model, a run's spec, a clock."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from srt.gpu_check.random_model import SIZES, Size, make_model, make_problems

PASS, FAIL, IMPOSSIBLE = "pass", "fail", "not possible here"
STEPS = 3  # of a training run
PROMPT_TOKENS = 64
SUFFIX = " Put the final answer in \\boxed{}."


class NotPossible(Exception):
    """This machine lacks what a part needs; the text completes "not possible here, because"."""


class Fault(Exception):
    """A part has found something wrong; the text is a sentence with the measured value and its bound."""


def require(holds: bool, sentence: str) -> None:
    """Raise `Fault` unless the condition holds."""
    if not holds:
        raise Fault(sentence)


def need_package(name: str) -> None:
    """Raise `NotPossible` if a Python package is not installed."""
    if find_spec(name) is None:
        raise NotPossible(f"{name} is not installed")


@dataclass(frozen=True)
class Verdict:
    """What a part found: PASS, FAIL or IMPOSSIBLE, a sentence, and figures by name."""

    part: str
    verdict: str
    said: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Machine:
    """The machine and model of a check. `folder` holds everything that parts write; `began`: of this process."""

    size_name: str
    folder: Path
    began: float = field(default_factory=time.perf_counter)

    @property
    def size(self) -> Size:
        """The shape and the amount of work."""
        return SIZES[self.size_name]

    @cached_property
    def device(self) -> Any:
        """The torch device."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))

    @property
    def gpu(self) -> bool:
        """Whether there is a GPU."""
        return bool(self.device.type == "cuda")

    @property
    def dtype(self) -> str:
        """Of weights and computation: what runs on this kind of machine use."""
        return "bfloat16" if self.gpu else "float32"

    @cached_property
    def gpu_bytes(self) -> float:
        """Memory of the GPU; nan on a CPU."""
        import torch

        return float(torch.cuda.mem_get_info(self.device)[1]) if self.gpu else float("nan")

    @cached_property
    def model(self) -> Path:
        """The folder of the random model, made by the first part that needs it."""
        return self._made(
            f"model-{self.size_name}", lambda path: make_model(path, self.size, self.dtype, str(self.device))
        )

    @cached_property
    def problems(self) -> Path:
        """The table of problems."""
        return self._made("problems.parquet", lambda path: make_problems(path, 4 * self.size.prompts))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path, unfinished = self.folder / name, self.folder / f"unfinished-{name}"
        if not path.exists():
            make(unfinished)
            unfinished.rename(path)
        return path

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A run's spec with the paper's objective; `changes` are hyperparameters."""
        from srt.config.train import Train

        size = self.size
        values = {
            "prompts_per_step": size.prompts, "rollouts_per_prompt": size.responses,
            "max_prompt_tokens": PROMPT_TOKENS, "max_new_tokens": size.new_tokens, "dtype": self.dtype,
            "learning_rate": 1e-5, "kl_coefficient": 0.05, "rollout_engine": "transformers", **changes,
        }  # fmt: skip
        train = Train.model_validate(values).hyperparameters()
        return {
            "run": "gpu-check", "seed": 1, "reward": "majority", "extractor": "boxed", "prompt_suffix": SUFFIX,
            "train": train,
        }  # fmt: skip

    def free(self) -> None:
        """Return what a part has left in memory."""
        import torch

        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def perform(name: str, work: Callable[[Machine], dict[str, Any]], machine: Machine) -> Verdict:
    """Run one part; whatever it raises becomes its verdict."""
    import torch

    began = time.perf_counter()
    try:
        figures = work(machine)
        verdict, said = PASS, str(figures.pop("said", ""))
    except NotPossible as error:
        verdict, said, figures = IMPOSSIBLE, str(error), {}
    except Fault as error:
        verdict, said, figures = FAIL, str(error), {}
    except torch.OutOfMemoryError as error:
        verdict, said, figures = FAIL, f"the GPU's memory is too small ({_first_line(error)}): use a smaller --size", {}
    except Exception as error:  # everything that a kernel, a driver or a library may raise is a finding
        import traceback

        traceback.print_exc()
        verdict, said, figures = FAIL, f"{type(error).__name__}: {_first_line(error)}", {}
    machine.free()
    return Verdict(name, verdict, said, round(time.perf_counter() - began, 1), figures)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
