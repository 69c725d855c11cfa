"""Numbers over problems: pass@k, maj@k and the generation-verification gap. It reads no files and grades nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

# Fig. 9 and the authors' `log_threshold_plot`: thresholds 0, 0.05, …, 1.
DRAWS = 400  # of maj@k: a standard error of at most 0.025 on one problem
DEFAULT_THRESHOLDS = np.round(np.arange(21) * 0.05, 2)


def _checked(values: np.ndarray | Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one entry per problem, not the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: drop those problems on purpose before averaging")
    return array


def pass_at_k(n: int | np.ndarray, c: int | np.ndarray, k: int) -> float | np.ndarray:
    """Unbiased pass@k: the chance that k of n samples, drawn without replacement, hold one of the c correct ones.

    1 - C(n-c, k) / C(n, k), as a product so that no binomial overflows. `n` and `c` may be arrays [P]; then so is the
    result. k > n has no unbiased estimate and is a ValueError.
    """
    samples, correct = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))
    if k < 1 or (samples < k).any():
        raise ValueError(f"pass@k needs 1 <= k <= n, got k={k} with n as low as {samples.min() if samples.size else n}")
    if (correct < 0).any() or (correct > samples).any():
        raise ValueError("pass@k needs 0 <= c <= n")
    # C(n-c, k)/C(n, k) = prod_{i<k} (n-c-i)/(n-i); a factor <= 0 means that every draw of k holds a correct sample.
    miss = np.ones(samples.shape)
    for i in range(k):
        miss = miss * np.maximum(samples - correct - i, 0) / (samples - i)
    result = 1.0 - miss
    return float(result) if result.ndim == 0 else result


def maj_at_k(classes: np.ndarray, correct: np.ndarray, k: int, generator: np.random.Generator) -> float:
    """The chance that the majority of k of n responses is correct, over `DRAWS` random draws without replacement.

    Of classes with equally many votes each wins equally often; a draw without any answer is wrong.

    Args:
        classes: int [n], the class of each response's answer; -1 is no answer.
        correct: bool [number of classes], whether an answer of the class is correct.
    """
    if not 1 <= k <= len(classes):
        raise ValueError(f"maj@k needs 1 <= k <= n, got k={k} with n={len(classes)}")
    if not len(correct):
        return 0.0
    drawn = np.argsort(generator.random((DRAWS, len(classes))), axis=1)[:, :k]
    votes = (classes[drawn][:, :, None] == np.arange(len(correct))).sum(axis=1)  # [DRAWS, classes]
    top = votes.max(axis=1, keepdims=True)
    first = (votes == top) & (top > 0)
    return float((first @ correct.astype(float) / np.maximum(first.sum(axis=1), 1)).mean())


def gap_curve(
    consistency: np.ndarray | Sequence[float],
    pass_rate: np.ndarray | Sequence[float],
    majority_correct: np.ndarray | Sequence[bool],
    thresholds: np.ndarray | Sequence[float] = DEFAULT_THRESHOLDS,
) -> pd.DataFrame:
    """The generation-verification gap of Fig. 9: accuracies of the problems whose consistency reaches a threshold.

    All inputs [P]: `consistency` (majority count / parsed, 0 where nothing parsed), `pass_rate` (share of correct
    samples) and `majority_correct` (maj@n). Returns one row per threshold, in the order given: `threshold`, `kept`
    (share of all P problems with consistency >= threshold), `pass_rate` and `majority_accuracy` (means over the kept
    problems, NaN when none is kept). The gap is majority_accuracy - pass_rate.
    """
    share = _checked(consistency, "consistency")
    rate = _checked(pass_rate, "pass_rate")
    majority = _checked(np.asarray(majority_correct, dtype=np.float64), "majority_correct")
    if not len(share) == len(rate) == len(majority):
        raise ValueError(f"the arrays need one entry per problem each: {len(share)}, {len(rate)}, {len(majority)}")
    rows = []
    for threshold in np.asarray(thresholds, dtype=np.float64):
        # 24/32 must pass 0.75 and 3/10 must pass 0.05 * 6 = 0.30000000000000004: counts are small, so 1e-9 is exact.
        keep = share >= threshold - 1e-9
        some = bool(keep.any())
        rows.append(
            {
                "threshold": float(threshold),
                "kept": float(keep.mean()) if len(share) else float("nan"),
                "pass_rate": float(rate[keep].mean()) if some else float("nan"),
                "majority_accuracy": float(majority[keep].mean()) if some else float("nan"),
            }
        )
    return pd.DataFrame(rows, columns=["threshold", "kept", "pass_rate", "majority_accuracy"])
