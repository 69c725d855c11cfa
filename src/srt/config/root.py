"""The whole configuration: its sections, and lookups across them."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from srt.common.errors import SrtError, nearest
from srt.common.own_code import is_own, pinned
from srt.config.alarm import AlarmRule
from srt.config.base import Strict
from srt.config.claims import Claim
from srt.config.datasets import DatasetConfig
from srt.config.evaluation import (
    SEED_MARK,
    Evaluate,
    Gradings,
    SamplingConfig,
    ScoringConfig,
    Suite,
    suite_and_seed,
)
from srt.config.figures import Figure
from srt.config.models import ModelConfig
from srt.config.plan import PlanConfig
from srt.config.runs import Checkpoint, Run, checkpoint_at

# Paths go into the shell commands of the rules, unquoted.
_PATH = re.compile(r"[A-Za-z0-9_./+@][A-Za-z0-9_./+@-]*")


class RunOfSeed(NamedTuple):
    """One run `{id}-s{seed}`: the id of its entry, the entry, and the seed."""

    id: str
    run: Run
    seed: int


class Config(Strict):
    """Everything that a run of the workflow depends on."""

    results: str = Field(
        "results/full", min_length=1, description="Folder of all results; only letters, digits and `_ . / + @ -`."
    )
    local_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder from which `path` of local data sets starts; may hold a mirror of the hub.",
    )
    keep_states: Literal["last", "all"] = Field(
        "last",
        description="`last`: only the optimizer state of a run's last checkpoint is kept, from which the run can be "
        "extended; `all`: all are kept.",
    )
    keep_models: Literal["all", "needed"] = Field(
        "all",
        description="`all`: the models of all checkpoints are kept; `needed`: that of an earlier checkpoint is deleted "
        "once all samples of it are made (docs/cost.md, *Pruning*).",
    )
    save_every: int = Field(
        10,
        gt=0,
        description="Steps between two saves within a segment; a kill loses the steps since the last complete save. "
        "Has no effect on results.",
    )
    max_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="Budget of the results folder in GPU-hours: jobs that would go beyond it by the plan are refused, "
        "and once it is used no further job is started (docs/cost.md); null means none.",
    )
    max_disk_gb: float | None = Field(
        None, gt=0, description="The same for the size of the results folder, in GB; null means none."
    )
    seeds: int = Field(
        1,
        gt=0,
        le=1000,
        description="Runs that list no seeds get the seeds 1 to this number (`--config seeds=1`).",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How checkpoints are sampled.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="How responses are graded.")
    train_defaults: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `train` for all runs; those of an entry take precedence."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="A model in place of the one base model that the runs use: a folder in Hugging Face format, or "
        "`owner/name@COMMIT` of the hub. The entry's keys of every kind stay; null means the entry as it is "
        "(docs/howto.md).",
    )
    models: dict[str, ModelConfig] = Field(min_length=1, description="Base models by id.")
    datasets: dict[str, DatasetConfig] = Field(min_length=1, description="Training and test sets by id.")
    suites: dict[str, Suite] = Field(
        default_factory=dict, description="Lists of data sets that one job samples together, by id."
    )
    runs: dict[str, Run] = Field(
        default_factory=dict, description="Training runs by id; needed unless `evaluate` is given."
    )
    evaluate: Evaluate | None = Field(
        None, description="Models that are evaluated without training (docs/evaluate.md); null means none."
    )
    figures: dict[str, Figure] = Field(default_factory=dict, description="Figures by id.")
    claims: dict[str, Claim] = Field(
        default_factory=dict, description="Statements of the paper and how they are checked, by id."
    )
    gradings: Gradings | None = Field(
        None, description="Which runs are reported under both gradings (tables/gradings.csv); null means none."
    )
    alarm: AlarmRule = Field(
        default_factory=AlarmRule, description="When the label-free collapse alarm rings (docs/monitors.md)."
    )
    plan: PlanConfig = Field(default_factory=PlanConfig, description="What `snakemake plan` assumes (docs/cost.md).")

    @field_validator("results", "local_dir")
    @classmethod
    def _fits_a_shell_command(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _PATH.fullmatch(value):
            raise ValueError(f"{value!r} has a character other than letters, digits and _ . / + @ -: rename the folder")
        return os.path.normpath(value)

    @cached_property
    def code_folders(self) -> list[Path]:
        """Where modules of the user's own functions are looked up (`srt.common.own_code`); the loader adds them."""
        return []

    def own_tasks(self, suite: str) -> list[str]:
        """The tasks of a suite's data sets that are functions of the user, each with the hash of its file."""
        tasks = [self.datasets[dataset].task or "" for dataset in self.members(suite)]
        return [pinned(task, self.code_folders) for task in sorted(set(filter(is_own, tasks)))]

    def members(self, suite: str) -> list[str]:
        """The data sets of a suite, by its id or by the name of its tables; every data set is also a suite."""
        suite, _ = suite_and_seed(suite)
        if suite in self.suites:
            return list(self.suites[suite].datasets)
        if suite in self.datasets:
            return [suite]
        raise SrtError(f"unknown suite '{suite}'{nearest(suite, [*self.suites, *self.datasets])}")

    @cached_property
    def stored_suites(self) -> dict[tuple[str, str], str]:
        """The name of the tables of each (model, suite), as far as `srt.artefacts.settings` was asked."""
        return {}

    def instances(self, run: str) -> list[str]:
        """The runs of an entry, one per seed: `{id}-s{seed}`."""
        return [f"{run}-s{seed}" for seed in self.runs[run].seeds]

    @cached_property
    def _entries(self) -> dict[str, RunOfSeed]:
        return {f"{name}-s{seed}": RunOfSeed(name, run, seed) for name, run in self.runs.items() for seed in run.seeds}

    def entry(self, instance: str) -> RunOfSeed:
        """The parts of a run `{id}-s{seed}`; the error for an unknown run names the nearest one."""
        found = self._entries.get(instance)
        if found is None:
            raise SrtError(f"unknown run '{instance}'{nearest(instance, self._entries)}")
        return found

    def start(self, instance: str) -> str:
        """The checkpoint that a run of one seed starts from: `base/{model}`, or `{run}-s{seed}/step-{n}` of another."""
        _, run, seed = self.entry(instance)
        return self._checkpoint(run.init, seed) if run.init else f"base/{run.model}"

    def teacher(self, instance: str) -> str:
        """The checkpoint whose majority answers are the run's labels, or whose stored responses the run learns from."""
        _, run, seed = self.entry(instance)
        start = f"base/{run.model}" if run.uses_stored_responses else self.start(instance)
        return self._checkpoint(run.teacher, seed) if run.teacher else start

    def _checkpoint(self, checkpoint: Checkpoint, seed: int) -> str:
        step = checkpoint.step or self.runs[checkpoint.run].checkpoints[-1]
        return checkpoint_at(f"{checkpoint.run}-s{seed}", step)

    def checkpoint_model(self, checkpoint: str) -> str:
        """The base model that a checkpoint (`base/{model}` or `{run}-s{seed}/step-{n}`) is, or was trained from."""
        name, _, rest = checkpoint.partition("/")
        return rest if name == "base" else self.entry(name).run.model

    def ranking_model(self, run: Run) -> str:
        """The base model whose samples rank the prompts of a run's curriculum."""
        return (run.curriculum.model if run.curriculum else None) or run.model

    def sampling_settings(self, model: str, suite: str = "") -> SamplingConfig:
        """Sampling settings of a model: `sampling`, overridden by the model's own keys, then by those of the suite."""
        suite, seed = suite_and_seed(suite)
        own = self.models[model].sampling
        changes = own.model_dump(exclude_none=True) if own else {}
        changes |= self.suites[suite].own_sampling if suite in self.suites else {}
        changes |= {} if seed is None else {"seed": seed}
        return self.sampling.model_copy(update=changes) if changes else self.sampling

    def evaluated_models(self) -> list[str]:
        """The models of `evaluate`, in their order."""
        return [] if self.evaluate is None else list(self.evaluate.models or self.models)

    def evaluation_seeds(self, model: str, suite: str) -> dict[int, str]:
        """The seeds of a model of `evaluate` on a suite, each with the suite's name for samples of that seed."""
        assert self.evaluate is not None
        own = self.sampling_settings(model, suite)
        seeds = self.evaluate.seeds or [own.seed]
        kept = seeds if own.temperature > 0 else seeds[:1]  # greedy samples do not depend on the seed
        return {seed: suite if seed == own.seed else f"{suite}{SEED_MARK}{seed}" for seed in kept}

    def unpinned(self) -> list[str]:
        """A warning for each model and data set whose revision is not a commit."""
        return [
            f"{section}: {name}: revision '{entry.revision}' is not pinned ({entry.unpinned}): "
            "another download may differ"
            for section in ("models", "datasets")
            for name, entry in getattr(self, section).items()
            if getattr(entry, "unpinned", None)
        ]
