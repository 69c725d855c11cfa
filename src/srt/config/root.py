"""The whole configuration and the checks that cross its sections."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from srt.common.errors import SrtError, nearest
from srt.config.alarm import AlarmRule
from srt.config.base import Seed, Strict
from srt.config.claims import Claim, check_claims
from srt.config.datasets import DatasetConfig
from srt.config.figure_checks import check_figures
from srt.config.figures import Figure, Panel
from srt.config.lineage import check_lineage, last_step
from srt.config.models import ModelConfig
from srt.config.plan import PlanConfig
from srt.config.preferences import OFFLINE
from srt.config.runs import Checkpoint, Run
from srt.config.suites import Suite

__all__ = ["Config", "ConfigError", "Figure", "Panel", "SamplingConfig", "ScoringConfig"]

ID = re.compile(r"[a-z0-9][a-z0-9_]*")
# Figures and runs are targets by their ids, so these names are taken (a test compares them with the rules).
TARGETS = ("data", "models", "samples", "labels", "train", "eval", "figures", "tables", "browser")
RULES = frozenset(
    {"all", *(f"all_{target}" for target in TARGETS)}
    | {"data", "base_model", "sample", "score", "labels", "preferences", "curriculum", "train", "train_last"}
    | {"audit", "decontaminated", "browser", "browser_list", "provenance", "costs"}
    | {"run_metrics", "early_stopping", "results_table", "claims", "plan", "slurm_check", "slurm_check_partition"}
)
# Paths go into the shell commands of the rules, unquoted.
_PATH = re.compile(r"[A-Za-z0-9_./+@][A-Za-z0-9_./+@-]*")


class ConfigError(SrtError):
    """A mistake that crosses sections: the path of keys, and the sentence."""

    def __init__(self, path: Sequence[str], message: str) -> None:
        self.path, self.message = list(path), message
        super().__init__(": ".join([*path, message]))


class SamplingConfig(Strict):
    """How checkpoints are sampled for evaluation, labels and curriculum (authors: n = 32, T = 1, no top-p)."""

    n: int = Field(32, gt=0, description="Responses a problem; avg@n and maj@n come from them.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling; 1 is none.")
    max_prompt_tokens: int = Field(1024, gt=0, description="Longest prompt in tokens; longer ones are left out.")
    max_new_tokens: int = Field(3072, gt=0, description="A response is cut after so many tokens.")
    engine: Literal["transformers", "vllm"] = Field("vllm", description="Engine that samples.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Precision of weights and activations.")
    seed: Seed = Field(0, description="Seed of all samples.")
    threads: int = Field(1, gt=0, description="CPU threads of a sampling process; sums depend on it.")


class ScoringConfig(Strict):
    """How responses are graded; changing this never samples again."""

    preset: Literal["clean", "authors"] = Field("clean", description="Votes by equivalence class, or by raw string.")
    extractor: Literal["boxed", "boxed_or_last_number", "reasoning_gym", "gsm8k_hash"] = Field(
        "boxed", description="How an answer is found in a response (docs/answers.md); training runs use it too."
    )
    timeout_s: float = Field(5.0, gt=0, description="Seconds for one comparison, then it counts as `timeout`.")
    memory_mb: int = Field(2048, gt=0, description="Memory of one grading process, in MB.")
    workers: int = Field(2, gt=0, description="Grading processes of one job; changes no result.")


class Config(Strict):
    """Everything that a workflow run is made of."""

    results: str = Field(
        "results/full", min_length=1, description="Folder of all results; letters, digits and `_ . / + @ -` only."
    )
    local_dir: str | None = Field(
        None, min_length=1, description="Folder that `path` of local data sets starts from (or a mirror of the hub)."
    )
    keep_states: Literal["last", "all"] = Field(
        "last",
        description="Optimizer states that stay: of a run's last checkpoint (it can be extended), or of every one.",
    )
    save_every: int = Field(
        10, gt=0, description="Steps between two saves inside a segment: what a kill can cost; changes no result."
    )
    seeds: int = Field(
        1,
        gt=0,
        le=1000,
        description="Runs of an entry that does not list its seeds: 1, 2 and so on up to this (`--config seeds=1`).",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How checkpoints are sampled.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="How responses are graded.")
    train_defaults: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `train` that every run starts from; an entry's own win."
    )
    models: dict[str, ModelConfig] = Field(min_length=1, description="Base models by id.")
    datasets: dict[str, DatasetConfig] = Field(min_length=1, description="Training and test sets by id.")
    suites: dict[str, Suite] = Field(
        min_length=1, description="Data sets that one job samples together, by the suite's id."
    )
    runs: dict[str, Run] = Field(min_length=1, description="Training runs by id.")
    figures: dict[str, Figure] = Field(default_factory=dict, description="Figures by id.")
    claims: dict[str, Claim] = Field(default_factory=dict, description="Statements of the paper, with checks, by id.")
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

    @model_validator(mode="after")
    def _references_exist(self) -> Config:
        for section in ("models", "datasets", "suites", "runs", "figures", "claims"):
            for key in getattr(self, section):
                if not ID.fullmatch(key):
                    fixed = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_") or "name"
                    raise ConfigError(
                        [section],
                        f"id '{key}' must be lower-case letters, digits and _ (it names files): write '{fixed}'",
                    )
        for name, suite in self.suites.items():
            self._check_suite(name, suite.datasets)
        for name, run in self.runs.items():
            self._check_run(name, run)
        for key in ("rows", "lengths"):
            for dataset in getattr(self.plan, key):
                self.need("datasets", dataset, ["plan", key])
        check_lineage(self)
        check_figures(self)
        check_claims(self)
        self._check_targets()
        return self

    def _check_suite(self, name: str, members: list[str]) -> None:
        where = ["suites", name]
        if name in self.datasets:
            raise ConfigError(where, "is also the id of a data set: rename the suite (a data set is a suite of itself)")
        if not members:
            raise ConfigError(where, "is empty: give at least one data set")
        for i, member in enumerate(members):
            self.need("datasets", member, where)
            if member in members[:i]:
                raise ConfigError(where, f"data set '{member}' is there twice: remove one")

    def _check_run(self, name: str, run: Run) -> None:
        where = ["runs", name]
        self.need("models", run.model, [*where, "model"])
        self.need("datasets", run.data, [*where, "data"])
        self._check_evaluations(run, where)
        gpus = self.models[run.model].gpus_train if run.gpus is None else run.gpus
        sharing = run.rollout_tensor_parallel
        if gpus is not None and max(1, gpus) % sharing:  # without GPUs it is one process
            raise ConfigError(
                [*where, "rollout_tensor_parallel"],
                f"{sharing} does not divide the run's GPUs ({gpus}: its gpus, or gpus_train of model '{run.model}'): "
                "change one of them",
            )
        train, context = run.train, self.models[run.model].context
        for path, source in (([*where, "train"], train), (["sampling"], self.sampling)):
            prompt, response = source.max_prompt_tokens, source.max_new_tokens
            if prompt + response > context:
                raise ConfigError(
                    path,
                    f"max_prompt_tokens ({prompt}) + max_new_tokens ({response}) = {prompt + response} "
                    f"is over the context of model '{run.model}' ({context}): lower one of them",
                )

    def _check_evaluations(self, run: Run, where: list[str]) -> None:
        """The run's suites exist; one with its own sampling stands alone, as tables name data sets, not suites."""
        for suite in run.suites:
            members = self.members(suite, [*where, "suites"])
            others = [name for name in run.suites if name != suite and {*members} & {*self.members(name)}]
            if others and suite in self.suites and self.suites[suite].own:
                raise ConfigError(
                    [*where, "suites"],
                    f"'{suite}' samples data sets of '{others[0]}' in another way, and tables could not tell them "
                    "apart: put it under probe",
                )
        for suite in run.probe.suites if run.probe else ():
            self.members(suite, [*where, "probe", "suites"])
            if suite in run.suites:
                raise ConfigError([*where, "probe", "suites"], f"'{suite}' is in the run's suites, too: remove one")
        step = run.probe.step if run.probe else None
        if step is not None and step not in run.checkpoints:
            steps = ", ".join(map(str, run.checkpoints))
            raise ConfigError([*where, "probe", "step"], f"no checkpoint is at step {step}: choose one of {steps}")

    def _check_targets(self) -> None:
        runs = {instance.replace("-", "_") for run in self.runs for instance in self.instances(run)}
        for section, names in (("figures", list(self.figures)), ("runs", sorted(runs))):
            for name in names:
                if name in RULES:
                    raise ConfigError([section], f"'{name}' is the name of a rule: choose another id")
        for name in self.figures:
            if name in runs:
                raise ConfigError(["figures", name], "is also the target of a run and its seed: choose another id")

    def need(self, section: str, key: str, where: Sequence[str]) -> None:
        """Raise a sentence unless `key` is in `section`; `where` is the path of keys that names it."""
        known = getattr(self, section)
        if key not in known:
            what = {"datasets": "data set"}.get(section, section[:-1])
            raise ConfigError(where, f"unknown {what} '{key}'{nearest(key, known)}")

    def members(self, suite: str, where: Sequence[str] = ("suite",)) -> list[str]:
        """The data sets of a suite; a data set is a suite of itself."""
        if suite in self.suites:
            return list(self.suites[suite].datasets)
        if suite in self.datasets:
            return [suite]
        raise ConfigError(where, f"unknown suite '{suite}'{nearest(suite, [*self.suites, *self.datasets])}")

    def instances(self, run: str) -> list[str]:
        """The runs of an entry, one a seed: `{id}-s{seed}`."""
        return [f"{run}-s{seed}" for seed in self.runs[run].seeds]

    @cached_property
    def _entries(self) -> dict[str, tuple[str, Run, int]]:
        return {f"{name}-s{seed}": (name, run, seed) for name, run in self.runs.items() for seed in run.seeds}

    def entry(self, instance: str) -> tuple[str, Run, int]:
        """The entry's id, the entry and the seed of a run `{id}-s{seed}`; unknown ones name the nearest."""
        found = self._entries.get(instance)
        if found is None:
            raise SrtError(f"unknown run '{instance}'{nearest(instance, self._entries)}")
        return found

    def start(self, instance: str) -> str:
        """The checkpoint that a run of one seed starts from: `base/{model}`, or `{run}-s{seed}/step-{n}` of another."""
        _, run, seed = self.entry(instance)
        return self._checkpoint(run.init, seed) if run.init else f"base/{run.model}"

    def teacher(self, instance: str) -> str:
        """Whose majorities label a run that `uses_labels`, or whose responses a run without rollouts learns from."""
        _, run, seed = self.entry(instance)
        start = f"base/{run.model}" if run.reward in OFFLINE else self.start(instance)
        return self._checkpoint(run.teacher, seed) if run.teacher else start

    def _checkpoint(self, checkpoint: Checkpoint, seed: int) -> str:
        return f"{checkpoint.run}-s{seed}/step-{last_step(self.runs, checkpoint)}"

    def ranking_model(self, run: Run) -> str:
        """The base model whose samples rank the prompts of a run's curriculum."""
        return (run.curriculum.model if run.curriculum else None) or run.model

    def sampling_of(self, model: str, suite: str = "") -> SamplingConfig:
        """How checkpoints of a model are sampled: the section `sampling` under what model and suite set themselves."""
        own = self.models[model].sampling
        changes = own.model_dump(exclude_none=True) if own else {}
        changes |= self.suites[suite].own if suite in self.suites else {}
        return self.sampling.model_copy(update=changes) if changes else self.sampling

    def unpinned(self) -> list[str]:
        """A sentence for each model and data set whose revision may move."""
        return [
            f"{section}: {name}: revision '{entry.revision}' is not pinned ({entry.unpinned}): "
            "another download may differ"
            for section in ("models", "datasets")
            for name, entry in getattr(self, section).items()
            if getattr(entry, "unpinned", None)
        ]
