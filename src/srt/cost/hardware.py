"""Peak and measured FLOP/s of a device, and model FLOPs utilisation (MFU). The one module of the room with torch."""

from __future__ import annotations

import math
import time

import torch

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

    Benchmarks divide by it, because it reflects this machine's threads, clocks and libraries, which no data sheet does.

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
