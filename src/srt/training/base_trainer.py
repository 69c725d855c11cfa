"""What all trainers share: the policy under DeepSpeed, the prompts in their order, the clock of a step."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.progress import log
from srt.config.runs import AlarmAction
from srt.cost.flops import count_tokens, update_flops
from srt.cost.hardware import peak_flops
from srt.cost.shapes import Shape
from srt.data.prompts import render_all
from srt.distributed.deepspeed_engine import DeepSpeedEngine
from srt.distributed.rank_agreement import refused_together
from srt.distributed.world import World, gather
from srt.models.checkpoint import load_model
from srt.models.context import check_context
from srt.packing.activation_checkpointing import ActivationRoom, checkpoint_activations
from srt.packing.attention import check_packable
from srt.training.alarm_action import action_of
from srt.training.batches import PromptOrder
from srt.training.learning_rate import rate_of_step
from srt.training.pack_probe import check_packs
from srt.training.segment import Segment
from srt.training.tracking import PhaseTimer, peak_memory, timing_row
from srt.training.training_set import TrainingSet
from srt.training.update import PHASES, Update


class BaseTrainer(ABC):
    """Takes the steps of one segment: `step` is one optimizer step, `update` its last part.

    `prompts` are the token ids of all problems of `data` (empty where too long), `order` is that of the usable ones.
    `ended`: the run's alarm or `stop_at` has ended it: no further step is taken, in this segment and in all later ones.
    """

    update: Update

    def __init__(self, segment: Segment, data: TrainingSet, world: World) -> None:
        self.spec, self.train, self.world, self.data = segment.spec, segment.spec["train"], world, data
        self.ended = False
        train, run = self.train, self.spec["run"]
        if world.size > train["prompts_per_step"]:
            raise SrtError(
                f"runs: {run}: prompts_per_step={train['prompts_per_step']} is too small for {world.size} processes: "
                "each needs a prompt, so use fewer GPUs or raise prompts_per_step"
            )
        model, self.tokenizer, self.end_tokens = load_model(segment.base, train["dtype"], world.device)
        check_packable(segment.base, model.config)
        check_context(segment.base, model.config, train["max_prompt_tokens"] + train["max_new_tokens"])
        self.prompts, too_long = render_all(
            self.tokenizer, data.ids, data.problems, self.spec["prompt_suffix"], train["max_prompt_tokens"],
            self.spec.get("prompt"),
        )  # fmt: skip
        usable = [i for i, prompt in enumerate(self.prompts) if prompt and data.has_label(i)]
        if world.main and len(usable) < len(data.ids):
            log(f"{len(data.ids) - len(usable)} prompts left out: {len(too_long)} too long, the others unlabelled")
        if len(usable) < train["prompts_per_step"]:
            raise SrtError(
                f"runs: {run}: only {len(usable)} usable prompts for prompts_per_step={train['prompts_per_step']}: "
                "lower it or use a larger data set"
            )
        self.order = PromptOrder(usable, train["prompts_per_step"], self.spec["seed"])
        if action_of(self.spec) == "offline_labels":
            self._check_later_labels()
        self.probe(segment, model)
        if world.device.type == "cuda":
            torch.cuda.empty_cache()  # vLLM, which starts later, cannot take memory that torch holds in its cache
        checkpoint_activations(model, train["gradient_checkpointing"])
        self.activations = None
        if self._has_room(segment):
            room = 1e6 * segment.activation_mb
            self.activations = ActivationRoom(model, Shape.of(model.config), train["dtype"], room)
        self.policy = self.make_policy(model)
        self.grader = Grader(train["votes"], self.spec["extractor"], own_tasks=self.spec.get("own_tasks", ()))
        self.timer = PhaseTimer(world.device)
        self.rate = rate_of_step(train)
        self.shape = Shape.of(model.config) if world.device.type == "cuda" else None  # for the MFU, known on GPUs only

    def make_policy(self, model: Any) -> DeepSpeedEngine:
        """The model with its optimizer."""
        train = self.train
        return DeepSpeedEngine(
            model, self.world, learning_rate=train["learning_rate"], betas=tuple(train["betas"]),
            weight_decay=train["weight_decay"], grad_clip=train["grad_clip"], zero_stage=train["zero_stage"],
            dtype=train["dtype"],
        )  # fmt: skip

    def probe(self, segment: Segment, model: Any) -> None:
        """Refuse a base model that would not be trained exactly (all ranks call it)."""
        modes = [self.train["gradient_checkpointing"], *(["selective"] if self._has_room(segment) else [])]
        for mode in modes:
            refused_together(lambda mode=mode: check_packs(segment.base, model, mode), self.world, main_only=True)

    def _has_room(self, segment: Segment) -> bool:
        """Whether layers may keep more than `gradient_checkpointing` says."""
        return segment.activation_mb > 0 and bool(self.train["gradient_checkpointing"] == "full")

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Take step `step` (0-based) and return its metrics."""

    def timed_step(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """`step`, and its cost on this machine (`srt.training.tracking.timing_row`)."""
        began = time.monotonic()
        if self.rate is None:
            row = self.step(step)
        else:
            self.policy.set_learning_rate(self.rate(step))
            row = self.step(step) | {"learning_rate": self.rate(step)}
        phases, work = self.timer.lap(), self.update.work
        counted = count_tokens(work["prompts"], work["responses"])
        timing = timing_row(
            step + 1, time.monotonic() - began, phases, tokens=work["tokens"],
            response_tokens=work["response_tokens"], processed_tokens=work["packed_tokens"],
            flops=update_flops(self.shape, counted) if self.shape else math.nan,
            peak=self.world.size * peak_flops(self.world.device, self.train["dtype"]),
            memory=max(gather([peak_memory(self.world.device)], self.world)), update=PHASES,
        )  # fmt: skip
        return row, timing

    def restore(self, state: Path) -> None:
        """Continue from a saved state (all ranks)."""
        self.policy.load(state)

    def progress(self) -> dict[str, Any]:
        """What a state has to keep beside weights, optimizer and metrics."""
        return {}

    def apply(self, action: AlarmAction) -> str:
        """Do what the run's alarm or `stop_at` asks for, and return a sentence about it.

        `stop` ends the run. `offline_labels` switches to the teacher's labels: from then on prompts, their order and
        the reward are those of a run that had this reward from the start.
        """
        if action == "stop":
            self.ended = True
            return "training ended there, and later checkpoints keep these weights"
        usable = self._later_labelled()
        left_out = len(self.order.usable) - len(usable)
        self.spec = {**self.spec, "reward": "offline_labels"}
        self.data, self.order.usable = self.data.after_alarm(), usable
        said = "from there on the labels are the teacher's (on_alarm: offline_labels)"
        return said + (f"; {left_out} prompts without one are left out" if left_out else "")

    # -- parts -------------------------------------------------------------------------------------------------------

    def _later_labelled(self) -> list[int]:
        """The usable prompts that have a label from the alarm on."""
        data = self.data.after_alarm()
        return [i for i in self.order.usable if data.has_label(i)]

    def _check_later_labels(self) -> None:
        """Refuse at the start what would otherwise fail only when the alarm rings."""
        run, size = self.spec["run"], self.order.per_step
        if self.data.later is None:
            raise SrtError(
                f"runs: {run}: on_alarm: offline_labels needs labels: give the table that the labels rule makes"
            )
        labelled = len(self._later_labelled())
        if labelled < size:
            raise SrtError(
                f"runs: {run}: on_alarm: offline_labels: only {labelled} usable prompts have a label for "
                f"prompts_per_step={size}: lower it or use a larger data set"
            )
