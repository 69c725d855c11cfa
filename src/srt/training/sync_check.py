"""The sync check: does the rollout engine sample from the weights that the trainer trains?

It is checked twice per step. When the engine has received the weights, `check_weights` compares checksums of all its
tensors: it finds any difference, however small, names the tensor, and costs two reads of the weights. After the
gradient pass, `check_logprobs` compares the log-probs that the engine returned with its samples to the trainer's. It
costs nothing and finds everything that changes a distribution: stale weights, a stale prefix cache, another
temperature, another kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from srt.common.errors import SrtError
from srt.rollout import Checksum, RolloutEngine, tensor_checksum

# Rounding of equal values summed in another order, relative to the absolute sum in float64. The last digit of one
# weight in a bfloat16 matrix of 10^8 is 4e-11; an optimizer step changes all of them.
SUM_TOLERANCE = 1e-13
HEAD = "lm_head.weight"
OTHER_ENGINE = "set train.rollout_engine to transformers"
AGAIN = f"run the same command again to resume from the last saved state; if it stops there again, {OTHER_ENGINE}"


def differing_tensors(engine: RolloutEngine, weights: Iterable[tuple[str, torch.Tensor]], dtype: str) -> list[str]:
    """Names of the trainer's weights that are not those in the engine, in the order given.

    Args:
        weights: the trainer's, whole, by name; read one at a time.
        dtype: the engine's ("float32" or "bfloat16"); the weights are rounded to it before they are summed.

    A tensor that only one of the two has counts as different. A head that only the engine has, because it is tied in
    the trainer, has to be one of the trainer's tensors: the embedding. Values that changed places within one tensor are
    not noticed.
    """
    engine_sums = dict(engine.checksums())
    names, all_wanted = [], []
    for name, tensor in weights:
        wanted = tensor_checksum(tensor.to(getattr(torch, dtype)))
        all_wanted.append(wanted)
        if name not in engine_sums or not _equal(engine_sums.pop(name), wanted):
            names.append(name)
    for name, checksum in engine_sums.items():
        if name != HEAD or not any(_equal(checksum, wanted) for wanted in all_wanted):
            names.append(name)
    return names


def _equal(a: Checksum, b: Checksum) -> bool:
    """Whether two checksums are equal up to the order of summation; False with nan."""
    scale = max(abs(a[1]), abs(b[1]))
    return all(abs(x - y) <= SUM_TOLERANCE * scale for x, y in zip(a, b, strict=True))


def check_weights(
    engine: RolloutEngine, weights: Iterable[tuple[str, torch.Tensor]], *, dtype: str, where: str
) -> None:
    """Raise SrtError naming the first layer if the engine holds other weights than these (see `differing_tensors`)."""
    names = differing_tensors(engine, weights, dtype)
    if names:
        raise SrtError(
            f"{where}: the rollout engine does not hold the trainer's weights: {len(names)} tensors differ, first "
            f"{names[0]}: {AGAIN}"
        )


def check_logprobs(
    mean_abs_difference: float,
    tolerance: float,
    engine: RolloutEngine,
    weights: Iterable[tuple[str, torch.Tensor]],
    distances: tuple[float, float],
    *,
    dtype: str,
    where: str,
) -> None:
    """Raise SrtError if the mean |difference| of log-probs exceeds the tolerance or is nan.

    It says which it is: stale weights in the engine, the engine's numerics, or a layout that packing does not
    reproduce.

    Args:
        mean_abs_difference: over the response tokens of a step (srt.objective.mismatch); nan if a log-prob of the
            engine or the trainer is not finite.
        weights, dtype: as for `differing_tensors`, which is called only on failure. They must be the weights that the
            engine sampled with, so call this before the optimizer's step.
        distances: how far trainer and engine are from the model's plain forward pass, in nats
            (`srt.training.update.Update.distances_from_plain`).
        where: run and step for the message, as "run srt-s1, step 12".
    """
    if mean_abs_difference <= tolerance:
        return
    if math.isfinite(mean_abs_difference):
        what = f"the rollout engine's log-probs are {mean_abs_difference:.3g} from the trainer's on average, "
        what += f"more than {tolerance:g}"
    else:
        what = "log-probs of the rollout engine or the trainer are not finite"
    if names := differing_tensors(engine, weights, dtype):
        why, fix = f"the engine's weights are stale: {len(names)} tensors differ, first {names[0]}", AGAIN
    else:
        trainer, sampler = (x if math.isfinite(x) else math.inf for x in distances)
        away = f"{trainer:.2g} nats from the model's plain forward pass, the engine {sampler:.2g}"
        if trainer == sampler == math.inf:
            why, fix = "the model's plain forward pass is not finite either", AGAIN
        elif trainer < sampler:
            why = f"it is how the engine computes: the weights are the same, and the trainer is {away} (a stale prefix "
            why += "cache, another temperature or top_p, or another precision)"
            fix = OTHER_ENGINE + ", or raise train.sync_tolerance if that is rounding" * math.isfinite(sampler)
        else:
            why = f"the model does not fit into packs: the weights are the same, and the trainer is {away}"
            fix = "choose another base model (docs/models.md)"
    raise SrtError(f"{where}: {what}: {why}: {fix}")
