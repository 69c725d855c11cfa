"""A segment of a run: what it is made from, and the outputs that it leaves."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srt.common.atomic_files import atomic_dir
from srt.common.io import canonical_json, sha256_bytes, sha256_file, spec_hash, write_parquet
from srt.common.progress import is_terminal, log, progress_bar
from srt.distributed.state import drop_others, states
from srt.metrics.alarm import Alarm, AlarmRule
from srt.models.checkpoint import fingerprint, write_provenance
from srt.training.alarm_action import action_of
from srt.training.tracking import METRICS, Eta, Tracker, postfix, summary
from srt.training.training_set import TrainingSet, training_frame


@dataclass(frozen=True)
class Segment:
    """One job: train `spec` from step `start` to `stop`.

    `base` is the checkpoint that the run starts from: its first weights, and the reference of the KL.
    `resume` is the state of step `start` (None at step 0). `work` holds this segment's own progress; `model_out`,
    `state_out`, `metrics_out` appear at the end. `minutes` is a time budget: when the next step might not fit, the
    state is saved and the exit code is 75. `vllm_memory` is vLLM's share of GPU memory beside the trainer, where
    `engine_sleep` has it give all of that back between rollouts, and `reference_offload` keeps the reference's weights
    in host memory between its passes. `tensor_parallel` processes share one vLLM engine. `logs` is where the run's JSON
    lines and TensorBoard events go (`work` if None); segments of one run share it. `alarm` is the rule of a collapse
    alarm that only rings.
    """

    spec: dict[str, Any]
    base: Path
    resume: Path | None
    start: int
    stop: int
    work: Path
    model_out: Path
    state_out: Path
    metrics_out: Path
    save_every: int = 10
    minutes: float | None = None
    vllm_memory: float = 0.3
    logs: Path | None = None
    reference_offload: bool = False
    engine_sleep: bool = False
    tensor_parallel: int = 1
    alarm: AlarmRule = field(default_factory=AlarmRule)


def inputs_of(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> str:
    """Fingerprint by content of what a segment is made from: models, data, labels, the state before it."""
    resume = sha256_file(segment.resume / "manifest.json") if segment.resume else None
    rows = [data.ids, data.problems, data.tasks, data.labels, truth]
    rows += [data.later] if data.later is not None else []
    rows += [data.stored.digest] if data.stored is not None else []
    return sha256_bytes(canonical_json([fingerprint(segment.base), resume, rows]).encode())


def link_or_copy(source: str, target: str) -> str:
    """A second name for a file, or a copy on file systems that have no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def finish(
    segment: Segment, save_model: Callable[[Path], None], tokenizer: Any, metrics: list[dict[str, Any]], final: Path
) -> None:
    """Write the outputs; a kill in between repeats this from the saved state `final`.

    That state stays, as links to the same files: Snakemake deletes the outputs of a job that is cancelled, or loses its
    node, after this point. The next segment of the run drops it.
    """
    drop_others(final)  # left by a kill just after `final` was saved
    with atomic_dir(segment.model_out) as folder:
        save_model(folder)
        tokenizer.save_pretrained(folder)
        write_provenance(folder, run=segment.spec["run"], step=segment.stop, spec=spec_hash(segment.spec))
    with atomic_dir(segment.state_out) as folder:
        shutil.copytree(final, folder, dirs_exist_ok=True, copy_function=link_or_copy)
    write_parquet(segment.metrics_out, training_frame(metrics), {"run": segment.spec["run"], "spec": segment.spec})
    before = segment.work.with_name(f"step-{segment.start}")
    for path in states(before) if segment.resume and before != segment.work else ():
        shutil.rmtree(path)


class Console:
    """What one sees of a segment: a bar or log lines, JSON lines and TensorBoard events, the alarm (rank 0 only)."""

    def __init__(self, segment: Segment, history: list[dict[str, Any]], step: int, main: bool) -> None:
        self.segment, self.main = segment, main
        folder = segment.logs or segment.work
        step = int(history[-1]["step"]) if history else step  # less than the state's where the alarm ended the run
        self.alarm = Alarm(segment.alarm)
        if main:
            for row in _earlier(folder / METRICS, segment.start if history else step):
                self.alarm.update(row)
            for row in history:
                self.alarm.update(row)
        self.tracker = Tracker(folder, history, step, main)
        self.eta = Eta(segment.stop)
        self.bar = progress_bar(
            total=segment.stop,
            initial=step,
            desc=segment.spec["run"],
            unit="step",
            disable=not (main and is_terminal()),
        )

    def show(self, row: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """One step more."""
        if not self.main:
            return
        run = self.segment.spec["run"]
        self.tracker.write(row, timing)
        left = self.eta.update(int(row["step"]), timing["seconds"])
        self.bar.update()
        self.bar.set_postfix(postfix(row, timing, left))
        if not is_terminal():
            log(summary(run, self.segment.stop, row, timing, left))
        if row["skipped"]:
            log(f"{run} step {int(row['step'])}: a gradient is not finite, its update was left out")
        if action_of(self.segment.spec) is None and self.alarm.update(row):  # else srt.training.alarm_action tells
            log(f"{run} step {int(row['step'])}: the collapse alarm rings ({self.alarm.sign}): see docs/monitors.md")

    def close(self) -> None:
        """Close the bar and the files."""
        self.bar.close()
        self.tracker.close()


def _earlier(path: Path, last: int) -> Iterator[dict[str, float]]:
    """The rows up to step `last` that earlier segments logged; a torn line ends them."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return
        if row["step"] <= last:
            yield {k: math.nan if v is None else v for k, v in row.items()}
