"""The learning rate of each step: warm-up and schedule, by the formulas of transformers.

It is a function of the step alone, so nothing of it is in a state, and a resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import get_scheduler


def rate_of_step(train: Mapping[str, Any]) -> Callable[[int], float] | None:
    """The learning rate by step (0-based), from a run's hyperparameters; None: `learning_rate` in every step.

    All optimizer steps on one batch (`iterations`) have the rate of their step.
    """
    schedule, warmup = train.get("schedule", "constant"), train.get("warmup_steps", 0)
    if schedule == "constant" and not warmup:
        return None
    name = "constant_with_warmup" if schedule == "constant" else schedule
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # transformers makes a schedule only around an optimizer
    factor = get_scheduler(name, unused, warmup, train.get("schedule_steps")).lr_lambdas[0]
    return lambda step: float(train["learning_rate"] * factor(step))
