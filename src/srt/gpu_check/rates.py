"""What `snakemake plan` takes from a report: keys of the section `plan`, computed from the figures of the parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]  # by the name of a part; {} for one that has not passed
TRAINING = ("steps, ZeRO 1", "steps without DeepSpeed")  # the first that has passed counts
SAMPLING = ("steps, vLLM", "steps, vLLM that sleeps")


def rates(figures: Figures, weight_bytes: float, startup_seconds: float) -> dict[str, float]:
    """Keys of `srt.config.plan.PlanConfig` with what was measured on a GPU; {} if not even its rates were.

    Args:
        weight_bytes: of the model that was sampled from, which each decoded token reads.
        startup_seconds: from the start of a process to its first part, imports included.
    """
    hardware, trained = figures.get("rates of the machine"), _first(figures, TRAINING)
    if not hardware:
        return {}
    found = {
        "peak_flops": known(hardware["peak_flops"], hardware["matmul_flops"]),
        "bandwidth": hardware["memory_rate"], "host_link_rate": hardware["host_link_rate"],
        "host_copy_rate": hardware["host_copy_rate"], "disk_rate": hardware["disk_rate"],
    }  # fmt: skip
    if trained:
        found["efficiency"] = min(1.0, trained["update_flops"] / trained["seconds_update"] / found["peak_flops"])
        found["step_seconds"] = trained["seconds_other"]
        if "snapshot_seconds" in trained:
            found["host_copy_rate"] = trained["state_bytes"] / trained["snapshot_seconds"]
            found["disk_rate"] = trained["state_bytes"] / trained["save_seconds"]
    if sampled := _first(figures, SAMPLING):
        token = sampled["seconds_rollout"] / sampled["longest_response"]
        found["launch_seconds"] = max(0.0, token - weight_bytes / found["bandwidth"])
        found["start_seconds"] = startup_seconds + sampled["start_seconds"]
    return found


def _first(figures: Figures, names: tuple[str, ...]) -> Mapping[str, Any]:
    return next((figures[name] for name in names if figures.get(name)), {})


def known(*values: float) -> float:
    """The first value that is a number; nan if none is."""
    return next((value for value in values if not math.isnan(value)), math.nan)
