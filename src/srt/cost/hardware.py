"""Model FLOPs of training a dense decoder, and what share of the hardware's limit they make (MFU).

A matrix product of [a, b] and [b, c] counts 2abc. Counted are the linear layers and the two products of causal
attention; norms, activations, rotary embeddings, softmax and the optimizer are not (below 1 % for real models), nor is
recomputation: MFU asks how fast the mathematics gets done, not how busy the device is (PaLM, arXiv 2204.02311, app. B).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from srt.common.errors import SrtError

# Dense (not sparse) FLOP/s of bfloat16 and float16 matrix products from NVIDIA's data sheets, which print the value
# with sparsity, twice this. The first name that occurs in the device's name counts.
#   H200 SXM 1,979 and NVL 1,671 (H200 data sheet); H100 SXM 1,979, NVL 1,671, PCIe 1,513 (H100 data sheet);
#   A100 SXM and PCIe 624 (A100 data sheet).
PEAK_16_BIT = (
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756.5e12),
    ("H100", 989.4e12),
    ("A100", 312.0e12),
)
MEASURE = {"cpu": 1024, "cuda": 8192}  # matrices of `measured_rate`: large enough to reach the device's limit


@dataclass(frozen=True)
class Shape:
    """What the FLOPs of a decoder depend on.

    `body`: weights of all linear layers but the head; `head`: weights of the head (vocabulary x hidden, also where they
    are tied to the embedding); `attention`: layers x heads x head size.
    """

    body: int
    head: int
    attention: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Counted on a model without storage (torch's meta device); mixtures of experts are refused.

        Args:
            config: a transformers config of a causal language model.
        """
        from transformers import AutoModelForCausalLM

        if any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise SrtError(
                f"model type {config.model_type}: FLOPs of mixtures of experts are not counted here, so there is no "
                "MFU for it; use a dense model"
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            body=sum(m.weight.numel() for m in linear),
            head=head.weight.numel(),
            attention=config.num_hidden_layers * config.num_attention_heads * size,
        )

    def forward(self, prompts: Sequence[int], responses: Sequence[int], group: Sequence[int] | None = None) -> int:
        """FLOPs of one forward pass over sequences of `prompts[i] + responses[i]` tokens, head on responses only.

        Token t of a sequence attends to t tokens: with s tokens, 4 d (1 + ... + s) = 2 d s (s + 1) for scores and
        values over `attention` = d columns.

        Args:
            group: name of each sequence's prompt, [N]. The prompt of a group then counts once, as in the packs of
                `srt.packing.pack`; without it every sequence counts with its own, as in trainers that share nothing.
        """
        total, seen = 0, set()
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            p, s = int(prompt), int(prompt) + int(response)
            total += 2 * self.head * int(response)
            skip = p if group is not None and group[i] in seen else 0  # tokens that an earlier sequence paid for
            total += 2 * self.body * (s - skip) + 2 * self.attention * (s * (s + 1) - skip * (skip + 1))
            if group is not None:
                seen.add(group[i])
        return total

    def update(
        self, prompts: Sequence[int], responses: Sequence[int], group: Sequence[int] | None = None,
        reference: bool = True,
    ) -> int:  # fmt: skip
        """FLOPs of one update on these sequences: 6N a token (forward 2N, backward 4N) and 2N for the reference."""
        return (4 if reference else 3) * self.forward(prompts, responses, group)


def peak_flops(device: torch.device | str, dtype: torch.dtype | str) -> float:
    """Dense peak FLOP/s of a device for a dtype; NaN where no data sheet is on file (CPUs, float32, other GPUs).

    Args:
        device: a torch device, or a device's name such as "NVIDIA H200".
        dtype: bfloat16 or float16, as a torch dtype or its name.
    """
    if str(dtype).removeprefix("torch.") not in ("bfloat16", "float16"):
        return math.nan
    if isinstance(device, torch.device):
        if device.type != "cuda":
            return math.nan
        device = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAK_16_BIT if name in device), math.nan)


def mfu(flops: float, seconds: float, peak: float) -> float:
    """Share of the peak: `flops` done in `seconds` on hardware of `peak` FLOP/s (of all devices). NaN where unknown."""
    return flops / (seconds * peak) if seconds > 0 and peak > 0 else math.nan


def measured_rate(
    device: torch.device | str, dtype: torch.dtype, size: int | None = None, seconds: float = 1.0
) -> float:
    """FLOP/s that a product of two square matrices reaches here, the best of what fits in `seconds` (at least 3).

    The limit that benchmarks divide by: it knows this machine's threads, clocks and libraries, as a data sheet cannot.

    Args:
        size: rows of the matrices; by default 1024 on a CPU and 8192 on a GPU.
    """
    device = torch.device(device)
    size = size or MEASURE.get(device.type, MEASURE["cuda"])
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    repeat = 10 if device.type == "cuda" else 1  # a launch must not weigh

    def once() -> float:
        synchronize(device)
        began = time.perf_counter()
        for _ in range(repeat):
            torch.mm(a, b, out=out)
        synchronize(device)
        return (time.perf_counter() - began) / repeat

    once()  # allocations, libraries, clocks
    end, times = time.perf_counter() + seconds, [once(), once(), once()]
    while time.perf_counter() < end:
        times.append(once())
    return 2 * size**3 / min(times)


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
