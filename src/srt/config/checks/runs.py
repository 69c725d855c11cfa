"""Suites, runs and the plan's tables against the models and data sets that they name."""

from __future__ import annotations

from srt.config.base import ConfigError
from srt.config.checks.references import refuse_repeat, require, require_answers, require_suite
from srt.config.evaluation import SamplingConfig
from srt.config.root import Config
from srt.config.runs import Run
from srt.config.train import Train


def check_suites(config: Config) -> None:
    """A suite names known data sets, each once, and does not share its id with a data set."""
    for name, suite in config.suites.items():
        path = ["suites", name]
        if name in config.datasets:
            raise ConfigError(path, "is also the id of a data set: rename the suite (every data set is also a suite)")
        if not suite.datasets:
            raise ConfigError(path, "is empty: give at least one data set")
        for position, dataset in enumerate(suite.datasets):
            require(config, "datasets", dataset, path)
            refuse_repeat(suite.datasets, position, "data set", path)


def check_plan(config: Config) -> None:
    """The plan's numbers are for known data sets, and the parts that it shows apart for known runs and their steps."""
    for key in ("rows", "lengths"):
        for dataset in getattr(config.plan, key):
            require(config, "datasets", dataset, ["plan", key])
    for part, runs in config.plan.apart.items():
        for run, step in runs.items():
            path = ["plan", "apart", part, run]
            require(config, "runs", run, path)
            before = [0, *config.runs[run].checkpoints[:-1]]
            if step not in before:
                known = ", ".join(map(str, before))
                raise ConfigError(path, f"run '{run}' has no part after step {step}: write one of {known}")


def check_gradings(config: Config) -> None:
    """Runs that are graded in both ways are known, and evaluated on the data sets."""
    if config.gradings is None:
        return
    runs, datasets = config.gradings.runs, config.gradings.datasets
    for position, dataset in enumerate(datasets):
        require(config, "datasets", dataset, ["gradings", "datasets"])
        refuse_repeat(datasets, position, "data set", ["gradings", "datasets"])
    for position, name in enumerate(runs):
        require(config, "runs", name, ["gradings", "runs"])
        refuse_repeat(runs, position, "run", ["gradings", "runs"])
        evaluated = {member for suite in config.runs[name].suites for member in config.members(suite)}
        for dataset in datasets:
            if dataset not in evaluated:
                raise ConfigError(
                    ["gradings", "datasets"],
                    f"run '{name}' is not evaluated on '{dataset}': add a suite of it to the run",
                )


def check_runs(config: Config) -> None:
    """A run's model, data and suites exist, and its lengths and GPUs fit them."""
    for name, run in config.runs.items():
        path = ["runs", name]
        require(config, "models", run.model, [*path, "model"])
        require(config, "datasets", run.data, [*path, "data"])
        if run.uses_true_answers:
            require_answers(config, run.data, f"reward {run.reward}", [*path, "data"])
        if run.curriculum and run.curriculum.by == "pass_rate":
            require_answers(config, run.data, "a curriculum by pass_rate", [*path, "curriculum", "by"])
        _check_suites(config, run, path)
        _check_probe(config, run, path)
        _check_gpus(config, run, path)
        _check_context(config, run, path)


def _check_suites(config: Config, run: Run, path: list[str]) -> None:
    """A suite with its own sampling shares no data set with another: tables name data sets, not suites."""
    for suite in run.suites:
        members = require_suite(config, suite, [*path, "suites"])
        if suite not in config.suites or not config.suites[suite].own_sampling:
            continue
        for other in run.suites:
            if other != suite and {*members} & {*require_suite(config, other, [*path, "suites"])}:
                raise ConfigError(
                    [*path, "suites"],
                    f"'{suite}' samples data sets of '{other}' differently, and tables could not tell them apart: "
                    "put it under probe",
                )


def _check_probe(config: Config, run: Run, path: list[str]) -> None:
    """The suites of a probe are not in the run's suites, and its step is a checkpoint."""
    if run.probe is None:
        return
    for suite in run.probe.suites:
        require_suite(config, suite, [*path, "probe", "suites"])
        if suite in run.suites:
            raise ConfigError([*path, "probe", "suites"], f"'{suite}' is already in the run's suites: remove one")
    if run.probe.step is not None and run.probe.step not in run.checkpoints:
        steps = ", ".join(map(str, run.checkpoints))
        raise ConfigError(
            [*path, "probe", "step"], f"there is no checkpoint at step {run.probe.step}: choose one of {steps}"
        )


def _check_gpus(config: Config, run: Run, path: list[str]) -> None:
    """Every vLLM engine has the same number of GPUs; a run without GPUs is one process."""
    gpus = config.models[run.model].gpus_train if run.gpus is None else run.gpus
    sharing = run.rollout_tensor_parallel
    if gpus is not None and max(1, gpus) % sharing:
        raise ConfigError(
            [*path, "rollout_tensor_parallel"],
            f"{sharing} does not divide the run's GPUs ({gpus}: its gpus, or gpus_train of model '{run.model}'): "
            "change one of them",
        )


def _check_context(config: Config, run: Run, path: list[str]) -> None:
    """The maximum prompt and response lengths fit the model's context, in training and in evaluation."""
    for keys, lengths in (([*path, "train"], run.train), (["sampling"], config.sampling)):
        check_lengths(config, run.model, lengths, keys)


def check_lengths(config: Config, model: str, lengths: Train | SamplingConfig, path: list[str]) -> None:
    """The maximum prompt and response lengths of a section fit a model's context."""
    context, prompt, response = config.models[model].context, lengths.max_prompt_tokens, lengths.max_new_tokens
    if prompt + response > context:
        raise ConfigError(
            path,
            f"max_prompt_tokens ({prompt}) + max_new_tokens ({response}) = {prompt + response} "
            f"is over the context of model '{model}' ({context}): lower one of them",
        )
