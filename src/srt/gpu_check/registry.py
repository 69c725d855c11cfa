"""The parts of a check in their order, and the process that runs some of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from srt.gpu_check import machine, packs, sampling, steps
from srt.gpu_check.parts import Machine, NotPossible, need_package, perform

Work = Callable[[Machine], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """`fresh`: in a process of its own on a GPU, as vLLM takes what memory it finds free."""

    work: Work
    fresh: bool = False


def _resumed(check: Machine) -> dict[str, Any]:
    from srt.gpu_check import resume  # imports DeepSpeed's use only where it is needed

    return resume.resumed(check)


def in_two_processes(check: Machine) -> dict[str, Any]:
    """`steps.in_two` on two GPUs, or on a CPU over gloo."""
    import torch

    from srt.cluster.launch import torchrun

    need_package("deepspeed")
    if check.gpu and torch.cuda.device_count() < steps.RANKS:
        raise NotPossible("torch sees one GPU")
    check.model, check.problems  # noqa: B018  # made before two processes want them
    out = check.folder / "two.json"
    script = [str(Path(__file__).with_name("__main__.py")), "--two", str(out), str(check.folder), check.size_name]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    done = subprocess.run(torchrun(1, steps.RANKS, "", "", script), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"torchrun ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(json.loads(out.read_text(encoding="utf-8")))


PARTS: dict[str, Part] = {
    "rates of the machine": Part(machine.rates),
    "packs in float32": Part(packs.float32),
    "packs in bfloat16": Part(packs.bfloat16),
    **{name: Part(partial(steps.take, case=case), fresh=case.engine == "vllm") for name, case in steps.CASES.items()},
    "steps in two processes": Part(in_two_processes),
    "killed in a save and resumed": Part(_resumed),
    "evaluation, transformers": Part(sampling.transformers),
    "evaluation, vLLM": Part(sampling.vllm, fresh=True),
}


def perform_all(names: Sequence[str], check: Machine, results: Path) -> None:
    """Run parts one after the other; each verdict is a line of `results` before the next part starts."""
    for name in names:
        with open(results, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"begins": name}) + "\n")
        verdict = perform(name, PARTS[name].work, check)
        with open(results, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(verdict)) + "\n")
