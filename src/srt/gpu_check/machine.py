"""Rates of the hardware: matrix products, memory, the link to the host, the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from srt.cluster.node_check import write_speed
from srt.cost.hardware import measured_rate, peak_flops, synchronize
from srt.gpu_check.parts import Machine

BYTES = {"cpu": 1 << 25, "cuda": 1 << 31}  # that are copied at a time
SECONDS = {"cpu": 0.1, "cuda": 1.0}  # for matrix products
DISK_MB = {"cpu": 8, "cuda": 1024}


def rates(machine: Machine) -> dict[str, Any]:
    """FLOP/s of a matrix product, and bytes per second; a copy within a GPU counts its read and its write."""
    kind, dtype, size = machine.device.type, getattr(torch, machine.dtype), BYTES[machine.device.type]
    matmul = measured_rate(machine.device, dtype, seconds=SECONDS[kind])
    source = torch.empty(size, dtype=torch.uint8, device=machine.device)
    figures: dict[str, Any] = {
        "matmul_flops": matmul, "memory_rate": 2 * size / _fastest(source.clone, machine.device),
        "disk_rate": 1e6 * write_speed(machine.folder, DISK_MB[kind]),
    }  # fmt: skip
    if machine.gpu:
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        link = _fastest(lambda: source.copy_(pinned, non_blocking=True), machine.device)
        figures |= {
            "host_link_rate": size / link, "host_copy_rate": size / _fastest(source.cpu, machine.device),
            "memory_bytes": machine.gpu_bytes, "peak_flops": peak_flops(machine.device, dtype),
            "device": torch.cuda.get_device_name(machine.device), "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }  # fmt: skip
    return {"said": f"{matmul / 1e12:.3g} TFLOP/s, {figures['memory_rate'] / 1e9:.3g} GB/s of memory", **figures}


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """The least seconds of a few calls."""
    times = []
    for _ in range(4):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
