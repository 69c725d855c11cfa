"""The page of a running workflow (`srt watch`): stages, time left, failures, and curves of the runs in training.

One HTML file without scripts, which the browser loads again while the workflow runs. The curves need no true answers:
agreement, KL and response length, with the step at which the collapse alarm rings (docs/monitors.md).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from srt.artefacts.paths import Paths
from srt.common.io import write_text
from srt.common.markup import fill_template
from srt.config.root import Config
from srt.metrics.alarm import COLUMNS, Alarm
from srt.plan.eta import Progress

SECONDS = 10  # until the browser loads the page again
RUNS = 12  # that have curves: those that took a step last
FAILURES = 5  # that are shown
# Each metric's title, and the upper end of its picture (None: its largest value). The lower end is 0.
CURVES: dict[str, tuple[str, float | None]] = {
    "majority_ratio": ("agreement", 1.0),
    "kl": ("KL, nats per token", None),
    "response_length": ("length, tokens", None),
}
WIDTH, HEIGHT, EDGE = 240, 70, 4  # of a curve, in units of its picture


class RunPage:
    """Writes the page.

    Args:
        config: the configuration that runs.
        log: the file with the output of the workflow; the page is beside it, as .html.
    """

    def __init__(self, config: Config, log: Path) -> None:
        self.config, self.log = config, log
        self.paths = Paths(config.results)
        self.path = log.with_suffix(".html")
        self.failures: list[str] = []

    def write(self, progress: Progress, state: str = "running") -> None:
        """Write the page anew; `state` is running, done, failed or stopped."""
        names = [name for run in self.config.runs for name in self.config.instances(run)]
        logs = {name: Path(self.paths.step_metrics(name)) for name in names}
        times = {name: path.stat().st_mtime for name, path in logs.items() if path.is_file()}
        last = sorted(times, key=lambda name: -times[name])
        text = fill_template(
            files("srt.report").joinpath("run_page.html").read_text(encoding="utf-8"),
            results=self.config.results, line=progress.line(), done=progress.done, jobs=progress.jobs,
            stages=progress.stages, runs=[self._run(name, logs[name]) for name in last[:RUNS]],
            more=len(last[RUNS:]), failures=self.failures[-FAILURES:], hidden_failures=len(self.failures[:-FAILURES]),
            log=str(self.log), state=state, seconds=SECONDS, now=time.strftime("%Y-%m-%d %H:%M:%S"),
        )  # fmt: skip
        write_text(self.path, text)

    def _run(self, name: str, log: Path) -> dict[str, Any]:
        """What the page says of a run of one seed."""
        run, rows = self.config.entry(name).run, steps_so_far(log)
        alarm = Alarm(self.config.alarm)
        for row in rows:
            if all(column in row for column in COLUMNS):
                alarm.update(row)
        curves = [curve(rows, column, *how, alarm.rang) for column, how in CURVES.items()]
        return {
            "name": name, "label": run.label, "step": rows[-1]["step"] if rows else 0, "steps": run.steps,
            "rang": alarm.rang, "sign": alarm.sign, "curves": [each for each in curves if each],
        }  # fmt: skip


def steps_so_far(log: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a line that is not a row, such as one being written, is left out."""
    rows = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def curve(
    rows: Sequence[dict[str, Any]], column: str, title: str, top: float | None, rings: int | None
) -> dict[str, Any] | None:
    """A metric over the steps as pieces of a picture, interrupted where it is null; None if it has no value.

    Args:
        top: the value at the upper end of the picture; None for the largest one.
        rings: the step at which the alarm rings.
    """
    points = [(row["step"], row.get(column)) for row in rows]
    values = [value for _, value in points if known(value)]
    if not values:
        return None
    low, high = min(values), max(values)
    bottom, ceiling = min(low, 0.0), max(high, top or high)
    first, last = points[0][0], points[-1][0]

    def x(step: int) -> float:
        return round(EDGE + (WIDTH - 2 * EDGE) * (step - first) / max(last - first, 1), 1)

    def y(value: float) -> float:
        share = (value - bottom) / (ceiling - bottom) if ceiling > bottom else 0.5
        return round(HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share, 1)

    pieces: list[dict[str, Any]] = []
    for there, piece in groupby(points, key=lambda point: known(point[1])):
        if there:
            places = [(x(step), y(value)) for step, value in piece]
            drawn = " ".join(f"{a},{b}" for a, b in places)
            pieces.append({"alone": len(places) == 1, "x": places[0][0], "y": places[0][1], "points": drawn})
    shown = {key: f"{value:.3g}" for key, value in (("low", low), ("high", high), ("last", values[-1]))}
    return {"title": title, "pieces": pieces, "rings": None if rings is None else x(rings), **shown}


def known(value: object) -> bool:
    """Whether a metric has a finite value."""
    return isinstance(value, int | float) and math.isfinite(value)
