"""Lineage: the checkpoints that runs start from or learn from can exist, and validation sets are held out."""

from __future__ import annotations

from collections.abc import Iterator

from srt.common.errors import nearest
from srt.config.base import ConfigError
from srt.config.checks.references import require
from srt.config.preferences import OFFLINE
from srt.config.root import Config
from srt.config.runs import Checkpoint, Run

# Keys that name the rows of a data set before any selection, by its source.
ORIGIN = {"local": ("path", "filter"), "hub": ("repo", "revision", "split", "config_name", "filter")}


def check_lineage(config: Config) -> None:
    """Raise a `ConfigError` unless parents exist and fit, none waits for itself, and validation sets are held out."""
    for name, run in config.runs.items():
        for key, checkpoint in _parents(run):
            _check_parent(config, name, key, checkpoint)
    _check_cycles(config)
    for name, run in config.runs.items():
        if run.curriculum and run.curriculum.model:
            require(config, "models", run.curriculum.model, ["runs", name, "curriculum", "model"])
        if run.validation:
            _check_validation(config, run, run.validation.dataset, ["runs", name, "validation", "dataset"])


def _parents(run: Run) -> Iterator[tuple[str, Checkpoint]]:
    """The keys of an entry that name another run's checkpoint, each with that checkpoint."""
    for key in ("init", "teacher"):
        checkpoint = getattr(run, key)
        if checkpoint is not None:
            yield key, checkpoint


def _check_parent(config: Config, name: str, key: str, checkpoint: Checkpoint) -> None:
    """The checkpoint's run has the step, the seeds and, where weights or token ids are taken over, the model."""
    path, run = ["runs", name, key], config.runs[name]
    require(config, "runs", checkpoint.run, [*path, "run"])
    parent = config.runs[checkpoint.run]
    if checkpoint.step is not None and checkpoint.step not in parent.checkpoints:
        steps = ", ".join(map(str, parent.checkpoints))
        raise ConfigError(
            [*path, "step"],
            f"run '{checkpoint.run}' has no checkpoint at step {checkpoint.step} (its steps: {steps}): choose one",
        )
    missing = [seed for seed in run.seeds if seed not in parent.seeds]
    if missing:
        raise ConfigError(
            path,
            f"run '{checkpoint.run}' has no seed {missing[0]}, which '{name}-s{missing[0]}' needs: add it to that "
            "run's seeds or remove it here",
        )
    # stored responses are token ids: those of another model mean other texts
    if (key == "init" or run.reward in OFFLINE) and parent.model != run.model:
        raise ConfigError(
            [*path, "run"],
            f"run '{checkpoint.run}' trains model '{parent.model}' and this one '{run.model}': set both to the same",
        )


def _check_cycles(config: Config) -> None:
    """No run waits for itself."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in done:
            return
        path = [*path, name]
        for key, checkpoint in _parents(config.runs[name]):
            if checkpoint.run in path:
                circle = " -> ".join([*path[path.index(checkpoint.run) :], checkpoint.run])
                raise ConfigError(
                    ["runs", name, key, "run"],
                    f"the runs depend on each other ({circle}): start one of them from the base model",
                )
            visit(checkpoint.run, path)
        done.add(name)

    for name in config.runs:
        visit(name, [])


def _check_validation(config: Config, run: Run, dataset: str, path: list[str]) -> None:
    """The validation set is evaluated, and none of its rows is trained on.

    Generated sets are told apart by `split`, and sets of different sources by the contamination audit.
    """
    require(config, "datasets", dataset, path)
    evaluated = [member for suite in run.suites for member in config.members(suite)]
    if dataset not in evaluated:
        raise ConfigError(
            path, f"the run is not evaluated on '{dataset}'{nearest(dataset, evaluated)}: add it to the run's suites"
        )
    if dataset == run.data:
        raise ConfigError(path, f"'{dataset}' is the run's training set: use a part that is held out of it")
    train, test = config.datasets[run.data], config.datasets[dataset]
    if train.source != test.source or train.source not in ORIGIN:
        return
    if any(getattr(train, key) != getattr(test, key) for key in ORIGIN[train.source]):
        return
    fractions = {getattr(entry, "holdout_fraction", None) for entry in (train, test)}
    parts = {getattr(entry, "part", None) for entry in (train, test)}
    if parts != {"train", "heldout"} or len(fractions) > 1:
        raise ConfigError(
            path,
            f"'{dataset}' is not held out of '{run.data}', which has the same source: give both the same "
            "holdout_fraction, with part: train for the training set and part: heldout for this one",
        )
