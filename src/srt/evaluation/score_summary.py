"""The report of a scored table: avg@n, maj@n and pass@n per data set, reasons and counters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from srt.metrics.intervals import one_run_interval
from srt.metrics.statistics import pass_at_k

SUMMARISED = ("dataset", "problem_id", "n", "parsed", "pass_rate", "majority_correct", "truncated", "reasons")


@dataclass
class Summary:
    """Counts and means per data set, reasons, and the grader's counters."""

    datasets: pd.DataFrame  # dataset, problems, samples, avg, avg_lo, avg_hi, maj, maj_lo, maj_hi, pass, parsed, …
    reasons: dict[str, int]
    counters: dict[str, int]

    def lines(self) -> list[str]:
        """The report: one line per data set, the reasons, the counters."""
        out = []
        for row in self.datasets.itertuples():
            out.append(
                f"{row.dataset}: {row.problems} problems, {row.samples} samples; "
                f"avg@{row.n} {_percent(row.avg, row.avg_lo, row.avg_hi)}, "
                f"maj@{row.n} {_percent(row.maj, row.maj_lo, row.maj_hi)}, "
                f"pass@{row.n} {row.best:.1%}, parsed {row.parsed:.1%}, truncated {row.truncated:.1%}"
            )
        out.append("reasons: " + ", ".join(f"{name} {count}" for name, count in self.reasons.items()))
        shown = {name: count for name, count in self.counters.items() if count}
        out.append("grading: " + (", ".join(f"{k} {v}" for k, v in shown.items()) or "no comparison was needed"))
        return out


def _percent(mean: float, lo: float, hi: float) -> str:
    return "unknown (no references)" if np.isnan(mean) else f"{mean:.1%} [{lo:.1%}, {hi:.1%}]"


def summarise(groups: pd.DataFrame, counters: dict[str, int]) -> Summary:
    """avg@n, maj@n and pass@n per data set, with 95 % intervals over problems.

    Args:
        groups: the columns `SUMMARISED` of a groups table; n is the largest number of samples per problem.
        counters: of the grader.
    """
    rows = []
    for dataset, frame in groups.groupby("dataset", sort=False):
        n = int(frame["n"].max())
        known = frame[frame["pass_rate"].notna()]
        avg = one_run_interval(known["pass_rate"].to_numpy(dtype=float))
        maj = one_run_interval(known["majority_correct"].to_numpy(dtype=float))
        correct = np.rint(known["pass_rate"].to_numpy(dtype=float) * known["n"].to_numpy()).astype(int)
        best = [pass_at_k(size, c, size) for size, c in zip(known["n"].to_numpy(), correct, strict=True)]
        total = int(frame["n"].sum())
        rows.append(
            {
                "dataset": dataset, "problems": len(frame), "samples": total, "n": n,
                "avg": avg[0], "avg_lo": avg[1], "avg_hi": avg[2], "maj": maj[0], "maj_lo": maj[1], "maj_hi": maj[2],
                "best": float(np.mean(best)) if best else float("nan"),
                "parsed": float(frame["parsed"].sum() / total), "truncated": float(frame["truncated"].sum() / total),
            }
        )  # fmt: skip
    reasons: Counter[str] = Counter()
    for text in groups["reasons"]:
        reasons.update(json.loads(text))
    return Summary(pd.DataFrame(rows), dict(sorted(reasons.items())), counters)
