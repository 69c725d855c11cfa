"""Runs that start from, or learn from, a checkpoint of another run: which one, and whether it can exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from srt.common.errors import nearest
from srt.config.preferences import OFFLINE

if TYPE_CHECKING:
    from srt.config.root import Config
    from srt.config.runs import Checkpoint, Run


def parents(run: Run) -> Iterator[tuple[str, Checkpoint]]:
    """The keys of an entry that name another run's checkpoint, with it."""
    for key in ("init", "teacher"):
        checkpoint = getattr(run, key)
        if checkpoint is not None:
            yield key, checkpoint


def ancestors(runs: Mapping[str, Run], name: str) -> list[str]:
    """The runs whose weights a run goes on from, the nearest first: what its policy was trained on before."""
    found: list[str] = []
    run = runs[name]
    while run.init is not None and run.init.run not in found:
        found.append(run.init.run)
        run = runs[run.init.run]
    return found


def last_step(runs: Mapping[str, Run], checkpoint: Checkpoint) -> int:
    """The step of a checkpoint; without one the run's last."""
    return checkpoint.step or runs[checkpoint.run].checkpoints[-1]


def check_lineage(config: Config) -> None:
    """Raise `ConfigError` for an unknown run, step or seed, another model, or a cycle."""
    from srt.config.root import ConfigError

    for name, run in config.runs.items():
        for key, checkpoint in parents(run):
            where = ["runs", name, key]
            config.need("runs", checkpoint.run, [*where, "run"])
            parent = config.runs[checkpoint.run]
            if checkpoint.step is not None and checkpoint.step not in parent.checkpoints:
                steps = ", ".join(map(str, parent.checkpoints))
                raise ConfigError(
                    [*where, "step"],
                    f"run '{checkpoint.run}' has no checkpoint at step {checkpoint.step} (its steps: {steps}): "
                    "choose one",
                )
            missing = [seed for seed in run.seeds if seed not in parent.seeds]
            if missing:
                raise ConfigError(
                    where,
                    f"run '{checkpoint.run}' has no seed {missing[0]}, from which '{name}-s{missing[0]}' would come: "
                    f"add it to that run's seeds or remove it here",
                )
            # stored responses are token ids: another model's are not this one's
            if (key == "init" or run.reward in OFFLINE) and parent.model != run.model:
                raise ConfigError(
                    [*where, "run"],
                    f"run '{checkpoint.run}' trains model '{parent.model}' and this one '{run.model}': "
                    "set both to the same",
                )
    _check_cycles(config)
    for name, run in config.runs.items():
        if run.curriculum and run.curriculum.model:
            config.need("models", run.curriculum.model, ["runs", name, "curriculum", "model"])
        if run.validation:
            _check_validation(config, name, run)


def _check_cycles(config: Config) -> None:
    from srt.config.root import ConfigError

    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in done:
            return
        for key, checkpoint in parents(config.runs[name]):
            if checkpoint.run in [*path, name]:
                circle = [*path, name][[*path, name].index(checkpoint.run) :]
                raise ConfigError(
                    ["runs", name, key, "run"],
                    f"the runs wait for each other ({' -> '.join([*circle, checkpoint.run])}): "
                    "start one of them from the base model",
                )
            visit(checkpoint.run, [*path, name])
        done.add(name)

    for name in config.runs:
        visit(name, [])


def _check_validation(config: Config, name: str, run: Run) -> None:
    """The validation set is evaluated, and none of its rows is trained on."""
    from srt.config.root import ConfigError

    assert run.validation is not None
    where, dataset = ["runs", name, "validation", "dataset"], run.validation.dataset
    config.need("datasets", dataset, where)
    evaluated = [member for suite in run.suites for member in config.members(suite)]
    if dataset not in evaluated:
        raise ConfigError(
            where, f"the run is not evaluated on '{dataset}'{nearest(dataset, evaluated)}: add it to the run's suites"
        )
    train, test = config.datasets[run.data], config.datasets[dataset]
    if dataset == run.data:
        raise ConfigError(where, f"'{dataset}' is the run's training set: use a part that is held out of it")
    source = {"local": ("path",), "hub": ("repo", "revision", "split", "config_name")}.get(train.source)
    if source is None or test.source != train.source:
        return  # generated sets are told apart by `split`; sets of two sources by the contamination audit
    if any(getattr(train, key) != getattr(test, key) for key in source) or train.filter != test.filter:
        return
    if {train.part, test.part} != {"train", "heldout"} or train.holdout_fraction != test.holdout_fraction:
        raise ConfigError(
            where,
            f"'{dataset}' is not held out of '{run.data}', which is of the same source: give both the same "
            "holdout_fraction, one with part: heldout and the training set with part: train",
        )
