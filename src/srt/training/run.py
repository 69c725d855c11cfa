"""Runs one segment: restores what an earlier attempt left, takes the steps, saves, writes the outputs.

A call that is interrupted, at any moment, continues from its last saved state when it is repeated.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from srt.common.errors import Interrupted
from srt.common.progress import log
from srt.config.preferences import OFFLINE
from srt.config.runs import AlarmAction
from srt.distributed.rank_agreement import check_base, find_state, segment_lock
from srt.distributed.saving import Saver
from srt.distributed.state import append_journal, clear_up
from srt.distributed.world import World, barrier, gather, init_world
from srt.training.alarm_action import watch_of
from srt.training.base_trainer import BaseTrainer
from srt.training.preference_trainer import PreferenceTrainer
from srt.training.rl_trainer import RLTrainer
from srt.training.segment import Segment, input_fingerprint, write_outputs
from srt.training.step_log import StepLog
from srt.training.training_set import TrainingSet


def trainer_of(reward: str) -> type[RLTrainer] | type[PreferenceTrainer]:
    """The trainer of a reward."""
    return PreferenceTrainer if reward in OFFLINE else RLTrainer


def run_segment(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> None:
    """Train one segment to its end.

    Raises:
        Interrupted: SIGTERM, or the time budget is used up; the state is saved.
        SrtError: wrong input, or another process trains this segment.
    """
    world = init_world()
    torch.set_num_threads(segment.spec["train"]["threads"])
    began = time.monotonic()
    stop = StopRequest(world.main)
    previous = signal.signal(signal.SIGTERM, stop.receive)
    try:
        # Another trainer of this segment may still be running: a killed Snakemake leaves its trainer, and SLURM may
        # restart a job elsewhere while a node that it cannot reach still trains. Wait for that trainer.
        with segment_lock(segment.work, world, 60 * (segment.minutes or 0), stop.signals):
            if world.main:
                clear_up(segment.work, segment.model_out, segment.state_out, segment.metrics_out)
            attempt = Attempt(segment, data, truth, world, stop, began)
            attempt.restore()
            attempt.train()
            attempt.finish()
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequest:
    """Whether SIGTERM asked this process to stop; says at once, and once, that it will and after what.

    Args:
        tells: whether this process says so (rank 0).
    """

    def __init__(self, tells: bool) -> None:
        self.signals: list[int] = []
        self.tells = tells
        self.after = "as soon as a state can be saved"  # when training stops

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self.tells and not self.signals:
            # not `print`, in the middle of which the signal may have come
            os.write(sys.stderr.fileno(), f"\nSIGTERM: training stops {self.after}\n".encode())
        self.signals.append(number)


class Attempt:
    """One attempt at a segment.

    `step` is the last step taken and `saved` that of the newest state; `metrics` are the rows of this segment.

    Args:
        stop: what asks this attempt to stop.
        began: when the attempt began (`time.monotonic`), for the time budget.
    """

    def __init__(
        self, segment: Segment, data: TrainingSet, truth: dict[str, str], world: World, stop: StopRequest, began: float
    ) -> None:
        self.segment, self.world, self.stop, self.began = segment, world, stop, began
        check_base(segment.base, world)
        self.trainer: BaseTrainer = trainer_of(segment.spec["reward"])(segment, data, world, truth)
        self.watch = watch_of(segment.spec)
        self.inputs = input_fingerprint(segment, data, truth)
        policy = self.trainer.policy
        self.saver = Saver(segment.work, segment.spec, world, self.inputs, policy.snapshot, policy.parameters)
        self.step = self.saved = segment.start
        self.metrics: list[dict[str, Any]] = []
        self.final: Path | None = None  # the state of the last step
        self.longest = 0.0  # seconds of the longest step

    def restore(self) -> None:
        """Continue from the newest state of an earlier attempt, else from the segment before, else from the base."""
        segment = self.segment
        found = find_state(segment.work, segment.spec, self.world, self.inputs)
        if found is not None and segment.start < found[1]["step"] <= segment.stop:
            path, progress = found
            self.trainer.restore(path)
            self.step = self.saved = progress["step"]
            self.metrics = progress["metrics"]
            if self.step == segment.stop:  # the earlier attempt was killed after its last step
                self.final = path
            if self.world.main:
                log(f"resuming at step {self.step} from an interrupted attempt")
        elif segment.resume is not None:
            self.trainer.restore(segment.resume)
        barrier(self.world)  # each rank has read its part at its own pace
        if self.world.main:
            append_journal(segment.work, event="start", step=self.step, stop=segment.stop)
        self._act(self.watch.restore(segment.resume, self.metrics))

    def train(self) -> None:
        """Take the remaining steps, unless the alarm or `stop_at` ends the run.

        Raises:
            Interrupted: as `run_segment`.
        """
        step_log = StepLog(self.segment, self.metrics, self.step, self.world.main)
        self.stop.after = self._next_end()
        try:
            while self.step < self.segment.stop and not self.trainer.ended:
                row, timing = self.trainer.timed_step(self.step)
                self.saver.settle()
                self.step += 1
                self.metrics.append(row)
                if self.world.main:
                    append_journal(self.segment.work, event="step", step=self.step)
                step_log.write(row, timing)
                self._act(self.watch.update(row))
                self.longest = max(self.longest, timing["seconds"])
                self._save_or_stop()
        finally:
            step_log.close()

    def finish(self) -> None:
        """Save the last state if no earlier attempt has, and write the outputs."""
        self.step = self.segment.stop  # also where the run has ended before
        final = self.final or self._save(wait=True)
        policy = self.trainer.policy
        with policy.whole():
            write_outputs(self.segment, self.world, policy.save_model, self.trainer.tokenizer, self.metrics, final)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _act(self, action: AlarmAction | None) -> None:
        if action is not None:
            consequence = self.trainer.apply(action)
            if self.world.main:
                log(f"{self.watch.sentence()}: {consequence}")

    def _save_or_stop(self) -> None:
        """Between two steps: save every `save_every` steps; save and raise `Interrupted` if training has to stop."""
        reason = self._stop_reason()
        if self.step == self.segment.stop:
            return
        self.stop.after = self._next_end()
        if reason or self.step - self.saved >= self.segment.save_every:
            self._save(wait=bool(reason))
            self.saved = self.step
        if reason:
            raise Interrupted(f"{reason}: state saved at step {self.step}, run the same command to resume")

    def _next_end(self) -> str:
        """When training stops if it is asked to stop now."""
        after = f"after step {self.step + 1} of {self.segment.stop}"
        if self.step + 1 == self.segment.stop:
            return f"{after}, its last, when the results are written"
        took = f" (steps took up to {self.longest:.0f} s)" if self.longest else ""
        return f"{after}{took}, when its state is saved"

    def _stop_reason(self) -> str:
        """Why to stop after this step, '' to continue; all ranks stop after the same step, for one reason."""
        reason = ""
        if self.stop.signals:
            reason = "SIGTERM"
        elif self.segment.minutes is not None:
            used = time.monotonic() - self.began
            if used + 2 * self.longest > 60 * self.segment.minutes:
                reason = f"time budget of {self.segment.minutes:g} minutes"
        return next(filter(None, gather([reason], self.world)), "")

    def _save(self, wait: bool) -> Path:
        return self.saver.start(self.step, self.metrics, self.watch.progress() | self.trainer.progress(), wait)
