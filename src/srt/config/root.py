"""The whole configuration and the checks that cross its sections."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Strict
from srt.config.datasets import DatasetConfig
from srt.config.models import ModelConfig
from srt.config.runs import Run
from srt.errors import SrtError, nearest

ID = re.compile(r"^[a-z0-9][a-z0-9_]*$")


class SamplingConfig(Strict):
    """How checkpoints are sampled for evaluation, labels and curriculum (authors: n = 32, T = 1, no top-p)."""

    n: int = Field(32, gt=0, description="Responses a problem; avg@n and maj@n come from them.")
    temperature: float = Field(1.0, ge=0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1)
    max_prompt_tokens: int = Field(1024, gt=0, description="Longer prompts are left out and counted.")
    max_new_tokens: int = Field(3072, gt=0)
    engine: Literal["transformers", "vllm"] = Field("vllm", description="Who samples.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16")
    seed: int = Field(0, ge=0)
    threads: int = Field(1, gt=0, description="CPU threads of a sampling process; sums depend on it.")


class ScoringConfig(Strict):
    """How responses are graded; changing this never samples again."""

    preset: Literal["clean", "authors"] = Field("clean", description="Equivalence classes, or raw-string votes.")
    extractor: str = Field("boxed", description="How an answer is found in a response (docs/answers.md).")
    timeout_s: float = Field(5.0, gt=0, description="Seconds for one comparison, then it counts as `timeout`.")
    memory_mb: int = Field(2048, gt=0, description="Memory of one grading process.")
    workers: int = Field(2, gt=0, description="Grading processes of one job.")


class Panel(Strict):
    """One panel of a figure: the runs (all their seeds) that are drawn together."""

    title: str = Field("", description="Heading of the panel.")
    runs: list[str] = Field(min_length=1, description="Keys of experiments.yaml.")
    datasets: list[str] | None = Field(None, description="Test sets of this panel alone, instead of the figure's.")


class Figure(Strict):
    """One figure: a target by its name (`snakemake fig2`)."""

    kind: Literal["curves", "dynamics", "bars", "gap", "examples"] = Field(description="How it is drawn.")
    title: str = Field(description="Short title; the caption is workflow/report/{id}.rst.")
    metric: Literal["avg", "maj"] = Field("avg", description="avg@n or maj@n.")
    datasets: list[str] = Field(min_length=1, description="Test sets.")
    average: bool = Field(True, description="The mean over the data sets, or a panel for each.")
    panels: list[Panel] = Field(default_factory=list, description="Runs by panel; not for kind gap.")
    model: str | None = Field(None, description="Base model, for kind gap.")
    suite: str = Field(description="Suite (or data set) whose samples hold `datasets`.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the kind (docs/figures.md).")


class Config(Strict):
    """Everything that a workflow run is made of."""

    results: str = Field("results/full", description="Folder of all results of this configuration.")
    local_dir: str | None = Field(None, description="Folder of local data files (`source: local`, or a hub mirror).")
    keep_states: Literal["last", "all"] = Field(
        "last", description="Optimizer states kept: of a run's last checkpoint (it can be extended), or of all."
    )
    save_every: int = Field(10, gt=0, description="Steps between two saves inside a segment: what a kill can cost.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    train_defaults: dict[str, Any] = Field(
        default_factory=dict, description="Values of `train` that every run starts from; an entry's own win."
    )
    models: dict[str, ModelConfig] = Field(min_length=1)
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    suites: dict[str, list[str]] = Field(min_length=1, description="Test sets that one job samples together.")
    runs: dict[str, Run] = Field(min_length=1)
    figures: dict[str, Figure] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _references_exist(self) -> Config:
        for section in ("models", "datasets", "suites", "runs", "figures"):
            for key in getattr(self, section):
                if not ID.match(key):
                    raise SrtError(f"{section}: id '{key}' must be lower-case letters, digits and _ (it is a file name)")
        for name, members in self.suites.items():
            if name in self.datasets:
                raise SrtError(f"suites: '{name}' is also a data set: rename the suite (a data set is a suite of itself)")
            for member in members:
                self.need("datasets", member, f"suites: {name}")
        for name, run in self.runs.items():
            where = f"runs: {name}"
            model = self.models.get(run.model)
            if model is None:
                self.need("models", run.model, f"{where}: model")
            self.need("datasets", run.data, f"{where}: data")
            for suite in run.suites:
                self.members(suite, f"{where}: suites")
            train = run.train
            if train.max_prompt_tokens + train.max_new_tokens > model.context:
                raise SrtError(
                    f"{where}: train: max_prompt_tokens + max_new_tokens = "
                    f"{train.max_prompt_tokens + train.max_new_tokens} is over the context of model "
                    f"'{run.model}' ({model.context}): lower one of them"
                )
        for name, figure in self.figures.items():
            self._check_figure(name, figure)
        return self

    def _check_figure(self, name: str, figure: Figure) -> None:
        where = f"figures: {name}"
        members = self.members(figure.suite, f"{where}: suite")
        for dataset in figure.datasets:
            self.need("datasets", dataset, f"{where}: datasets")
            if dataset not in members:
                raise SrtError(f"{where}: data set '{dataset}' is not in suite '{figure.suite}' ({', '.join(members)})")
        if figure.kind == "gap":
            if figure.model is None:
                raise SrtError(f"{where}: kind gap needs `model`, the base model whose samples it shows")
            self.need("models", figure.model, f"{where}: model")
        elif not figure.panels:
            raise SrtError(f"{where}: kind {figure.kind} needs `panels` with runs")
        for panel in figure.panels:
            for dataset in panel.datasets or []:
                if dataset not in members:
                    raise SrtError(f"{where}: panels: data set '{dataset}' is not in suite '{figure.suite}'")
            for run in panel.runs:
                self.need("runs", run, f"{where}: panels: runs")
                if figure.suite not in self.runs[run].suites:
                    raise SrtError(f"{where}: run '{run}' is not evaluated on suite '{figure.suite}': add it to its suites")

    def need(self, section: str, key: str, where: str) -> None:
        """Raise a sentence unless `key` is in `section`."""
        known = getattr(self, section)
        if key not in known:
            raise SrtError(f"{where}: unknown {section[:-1]} '{key}'{nearest(key, known)}")

    def members(self, suite: str, where: str = "suite") -> list[str]:
        """The data sets of a suite; a data set is a suite of itself."""
        if suite in self.suites:
            return list(self.suites[suite])
        if suite in self.datasets:
            return [suite]
        raise SrtError(f"{where}: unknown suite '{suite}'{nearest(suite, [*self.suites, *self.datasets])}")

    def instances(self, run: str) -> list[str]:
        """The runs of an entry, one a seed: `{id}-s{seed}`."""
        return [f"{run}-s{seed}" for seed in self.runs[run].seeds]

    def entry(self, instance: str) -> tuple[str, Run, int]:
        """The entry's id, the entry and the seed of a run `{id}-s{seed}`; unknown ones name the nearest."""
        name, _, seed = instance.rpartition("-s")
        known = [i for run in self.runs for i in self.instances(run)]
        if instance not in known:
            raise SrtError(f"unknown run '{instance}'{nearest(instance, known)}")
        return name, self.runs[name], int(seed)
