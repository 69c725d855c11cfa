"""The report of a check: its verdicts line by line, the figures of training steps as a table, and the JSON file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srt.cluster.node_check import PACKAGES, installed_version
from srt.common.io import write_json
from srt.cost.memory import weight_bytes
from srt.gpu_check.parts import FAIL, IMPOSSIBLE, PASS, Verdict
from srt.gpu_check.random_model import SIZES
from srt.gpu_check.rates import known, rates

RATES = "rates of the machine"  # the part that measures the hardware
HEAD = (
    ("", "rollout", "update", "share of", "rollout", "update", "other", "sync", "start", "peak", "planned", "cache"),
    ("", "tok/s", "tok/s", "peak", "s", "s", "s", "s", "s", "GB", "GB", "tokens"),
)


@dataclass
class Report:
    """What a check has found.

    `gpu` is the name of the card, "" without one. `startup_seconds`: from the start of a process to its first part.
    `log`: what all processes printed.
    """

    size: str
    gpu: str
    verdicts: list[Verdict] = field(default_factory=list)
    startup_seconds: float = 0.0
    log: str = ""

    @property
    def failed(self) -> bool:
        """Whether a part has failed."""
        return any(v.verdict == FAIL for v in self.verdicts)

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Figures by part, of those that have passed."""
        return {v.part: v.figures for v in self.verdicts if v.verdict == PASS}

    def to_json(self) -> dict[str, Any]:
        """For the file that the plan reads."""
        weights = weight_bytes(SIZES[self.size].shape, "bfloat16")
        return {
            "gpu": self.gpu, "size": self.size, "versions": {name: installed_version(name) for name in PACKAGES},
            "rates": rates(self.figures, weights, self.startup_seconds) if self.gpu else {},
            "parts": [asdict(v) | {"figures": _finite(v.figures)} for v in self.verdicts],
        }  # fmt: skip

    def write(self, out: Path) -> None:
        """Write the JSON, and beside it the log if a part has failed."""
        write_json(out, self.to_json())
        if self.failed:
            out.with_suffix(".log").write_text(self.log, encoding="utf-8")


def line(verdict: Verdict) -> str:
    """One part in one line."""
    said = f"not possible here, because {verdict.said}" if verdict.verdict == IMPOSSIBLE else verdict.said
    mark = {PASS: "pass", FAIL: "FAIL", IMPOSSIBLE: "-"}[verdict.verdict]
    return f"{mark:<4}  {verdict.part:<31}  {verdict.seconds:>6.1f} s  {said}".rstrip()


def table(report: Report) -> str:
    """The figures of training steps, a line per way to take them; "" if none has passed."""
    hardware = report.figures.get(RATES, {})
    limit = known(hardware.get("peak_flops", math.nan), hardware.get("matmul_flops", math.nan))
    rows = [_row(name, figures, limit) for name, figures in report.figures.items() if "update_flops" in figures]
    if not rows:
        return ""
    cells = [*HEAD, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD[0]))]
    lines = []
    for name, *numbers in cells:
        aligned = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(lines)


def _row(name: str, figures: Mapping[str, Any], limit: float) -> tuple[str, ...]:
    share = figures["update_flops"] / figures["seconds_update"] / limit
    seconds = (f"{figures[f'seconds_{phase}']:.2f}" for phase in ("rollout", "update", "other"))
    cache = figures.get("cache_tokens")
    return (
        name, f"{figures['rollout_tokens_per_second']:.0f}", f"{figures['update_tokens_per_second']:.0f}",
        f"{share:.2f}", *seconds, f"{figures['sync_seconds']:.2f}", f"{figures['start_seconds']:.1f}",
        f"{figures['peak_bytes'] / 1e9:.1f}", f"{figures['planned_bytes'] / 1e9:.1f}", f"{cache:,}" if cache else "",
    )  # fmt: skip


def default_out(gpu: str) -> Path:
    """The file of a card: its name in lower case without "nvidia".

    >>> str(default_out("NVIDIA H200"))
    'benchmarks/results/gpu_check_h200.json'
    """
    words = [word for word in re.split(r"[^a-z0-9]+", gpu.lower()) if word and word != "nvidia"]
    return Path("benchmarks/results") / f"gpu_check_{'_'.join(words) or 'cpu'}.json"


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """None in place of numbers that JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
