"""A segment of a run: what it is made from, the file that describes it, and the outputs that it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from srt.common.atomic_files import atomic_dir
from srt.common.errors import SrtError
from srt.common.io import canonical_json, read_json, sha256_bytes, sha256_file, spec_hash, write_parquet
from srt.config.alarm import AlarmRule
from srt.config.base import Strict
from srt.config.explain import first_problem
from srt.config.train import TRACKERS, TrackerName
from srt.distributed.saving import copy_state
from srt.distributed.state import drop_others, states
from srt.distributed.world import World, barrier
from srt.models.checkpoint import fingerprint, write_provenance
from srt.training.training_set import TrainingSet, training_frame

SPEC = ("run", "seed", "reward", "extractor", "prompt_suffix", "train")  # keys that every spec has


class Segment(Strict):
    """One training job: steps `start` + 1 to `stop` of a run."""

    spec: dict[str, Any] = Field(description="The run: reward, seed, train (hyperparameters), …")
    base: Path = Field(description="Checkpoint that the run starts from: initial weights and reference of the KL.")
    start: int = Field(ge=0, description="Step of `resume`, 0 for `base`.")
    stop: int = Field(description="Last step of the segment.")
    resume: Path | None = Field(None, description="Training state of step `start`; none at step 0.")
    work: Path = Field(description="Folder of the segment's own progress and lock.")
    model_out: Path = Field(description="Checkpoint to write (Hugging Face format).")
    state_out: Path = Field(description="Training state to write.")
    metrics_out: Path = Field(description="Metrics of the segment to write (parquet).")
    logs: Path | None = Field(
        None,
        description="Folder of JSON lines and trackers' files, shared by a run's segments; else `work`.",
    )
    trackers: list[TrackerName] = Field(list(TRACKERS), description="Programs that draw the run's curves.")
    save_every: int = Field(10, ge=1, description="Steps between two saved states.")
    minutes: float | None = Field(
        None,
        ge=0,
        description="Time budget in minutes: when the next step might exceed it, the state is saved; exit code 75.",
    )
    vllm_percent: int = Field(30, ge=1, le=99, description="vLLM's share of a GPU's memory, beside the trainer.")
    reference_offload: bool = Field(False, description="Keep the reference in host memory between its passes.")
    engine_sleep: bool = Field(False, description="vLLM gives its memory back between rollouts.")
    rollout_tensor_parallel: int = Field(1, ge=1, description="Processes that share one vLLM engine.")
    activation_mb: int = Field(
        0,
        ge=0,
        description="Memory for activations; layers keep more than gradient_checkpointing says where it allows.",
    )
    alarm: AlarmRule = Field(
        default_factory=AlarmRule,
        description="Rule of an alarm that only logs; the rule of one that acts on training is in `spec`.",
    )

    @field_validator("spec")
    @classmethod
    def _spec_is_complete(cls, spec: dict[str, Any]) -> dict[str, Any]:
        missing = [key for key in SPEC if key not in spec]
        if missing:
            raise ValueError(f"lacks the key '{missing[0]}' (it needs: {', '.join(SPEC)})")
        return spec

    @model_validator(mode="after")
    def _steps_fit(self) -> Segment:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} is not below stop {self.stop}: correct one of them")
        if self.start and self.resume is None:
            raise ValueError(f"resume is missing: give the training state of step {self.start}")
        if self.resume is not None and not self.start:
            raise ValueError("resume has no effect at start 0, which is the base model: remove it or correct start")
        return self


class DataFiles(Strict):
    """The tables (parquet) of a segment's training set."""

    problems: Path = Field(description="Training problems.")
    subset: Path | None = Field(None, description="Curriculum: train on these problem ids only.")
    labels: Path | None = Field(None, description="Labels, for reward or on_alarm `offline_labels`.")
    preferences: Path | None = Field(None, description="Stored responses, for rewards sft, dpo and scpo.")


class SegmentFile(Segment):
    """A segment with its data, as scripts/train.py reads it from JSON."""

    data: DataFiles = Field(description="Tables of the training set: problems, subset, labels, preferences.")


def read_segment(path: Path) -> SegmentFile:
    """Read and check a segment file.

    Raises:
        SrtError: one sentence that names the file, the key and the fix.
    """
    try:
        return SegmentFile.model_validate(read_json(path))
    except ValidationError as error:
        raise SrtError(f"{path}: {first_problem(SegmentFile, error)}") from None


def input_fingerprint(segment: Segment, data: TrainingSet, truth: dict[str, str]) -> str:
    """SHA-256 of the content that a segment is made from: base model, previous state, data, labels."""
    resume = sha256_file(segment.resume / "manifest.json") if segment.resume else None
    rows = [data.ids, data.problems, data.tasks, data.labels, truth]
    rows += [data.later] if data.later is not None else []
    rows += [data.stored.digest] if data.stored is not None else []
    return sha256_bytes(canonical_json([fingerprint(segment.base), resume, rows]).encode())


def write_outputs(
    segment: Segment,
    world: World,
    save_model: Callable[[Path], None],
    tokenizer: Any,
    metrics: list[dict[str, Any]],
    final: Path,
) -> None:
    """Write the segment's outputs (all ranks); after a kill this is repeated from the saved state `final`.

    That state stays, as links to the same files, because Snakemake deletes the outputs of a job that is cancelled or
    loses its node after this point. The next segment of the run removes it.
    """
    if world.main:
        drop_others(final)  # left by a kill just after `final` was saved
        with atomic_dir(segment.model_out) as folder:
            save_model(folder)
            tokenizer.save_pretrained(folder)
            write_provenance(folder, run=segment.spec["run"], step=segment.stop, spec=spec_hash(segment.spec))
    copy_state(final, segment.state_out, world)
    if world.main:
        write_parquet(segment.metrics_out, training_frame(metrics), {"run": segment.spec["run"], "spec": segment.spec})
        before = segment.work.with_name(f"step-{segment.start}")
        for path in states(before) if segment.resume and before != segment.work else ():
            shutil.rmtree(path)
    barrier(world)
