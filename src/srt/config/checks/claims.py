"""Claims: the runs, test sets and steps that they read exist, and the moments suit the estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from srt.config.base import ConfigError
from srt.config.checks.figures import require_sampled
from srt.config.checks.references import refuse_repeat, require, require_suite
from srt.config.claims import Claim
from srt.config.root import Config

# Estimators that read every step of a run, or one step that `require_sampled` checks.
WITHOUT_MOMENTS = ("training", "suite_gain")


@dataclass(frozen=True)
class _Side:
    """One run that a claim reads: the key that names it, and the keys of its test sets and of its moments."""

    key: str
    run: str
    datasets: str
    moments: tuple[str, ...]


def check_claims(config: Config) -> None:
    """Raise a `ConfigError` for a claim on a run, data set or step that the configuration does not have."""
    for name, claim in config.claims.items():
        if claim.estimator is None:
            continue
        path = ["claims", name, "options"]
        sides = _sides(claim.options)
        for position, side in enumerate(sides):
            require(config, "runs", side.run, [*path, side.key])
            if side.key == "also":
                refuse_repeat([each.run for each in sides], position, "run", [*path, "also"])
            _check_datasets(config, claim, side, path)
            if claim.estimator not in WITHOUT_MOMENTS:
                _check_steps(config, claim, side, path)
        _check_options(claim, path)


def _sides(options: dict[str, Any]) -> list[_Side]:
    """The run of a claim, the run that it is compared with, and further ones; an option that is left out is None."""
    sides = [_Side("run", options["run"], "datasets", ("at", "since", "by", "until", "after"))]
    if options.get("against") is not None:
        datasets = "against_datasets" if options.get("against_datasets") else "datasets"
        moments = ("at", "since", "until") if options.get("against_at") is None else ("against_at", "until")
        sides.append(_Side("against", options["against"], datasets, moments))
    return sides + [replace(sides[-1], key="also", run=run) for run in options.get("also") or ()]


def _check_datasets(config: Config, claim: Claim, side: _Side, path: list[str]) -> None:
    """The run is evaluated on each test set that the claim reads."""
    options = claim.options
    if claim.estimator == "suite_gain":
        evaluated = _members_of_all(config, side.run, options["suites"], options["at"], [*path, "suites"])
    else:
        evaluated = [member for suite in config.runs[side.run].suites for member in config.members(suite)]
    wanted = list(options.get(side.datasets, ()))
    if options.get("validation_dataset"):
        wanted.append(options["validation_dataset"])
    if not options.get("against"):  # further test sets of the same run
        wanted += options.get("against_datasets") or ()
    for position, dataset in enumerate(wanted):
        require(config, "datasets", dataset, [*path, side.datasets])
        if dataset not in evaluated:
            known = ", ".join(dict.fromkeys(evaluated))
            raise ConfigError(
                [*path, side.datasets],
                f"run '{side.run}' is not evaluated on '{dataset}' (it is on: {known}): add a suite of it to the run",
            )
        refuse_repeat(wanted, position, "data set", [*path, side.datasets])


def _members_of_all(config: Config, run: str, suites: Sequence[str], step: int | None, path: list[str]) -> list[str]:
    """The data sets that all suites of a `suite_gain` have, each sampled at the step."""
    members = [require_suite(config, suite, path) for suite in suites]
    require_sampled(config, run, suites, step, path)
    return [name for name in members[0] if all(name in each for each in members)]


def _check_steps(config: Config, claim: Claim, side: _Side, path: list[str]) -> None:
    """Each step that the claim names is a checkpoint of the run.

    A step after the run's end is allowed: the claim is then undecided, not wrong.
    """
    run = config.runs[side.run]
    for moment in side.moments:
        step = claim.options.get(moment)
        if isinstance(step, int) and 0 < step < run.steps and step not in run.checkpoints:
            near = max(run.segment, round(step / run.segment) * run.segment)
            raise ConfigError(
                [*path, moment],
                f"run '{side.run}' has no checkpoint at step {step}: use a multiple of its segment, such as {near}",
            )


def _check_options(claim: Claim, path: list[str]) -> None:
    """Options that an estimator's schema allows although they contradict the estimator."""
    options, estimator = claim.options, claim.estimator
    if estimator in ("one_answer", "gap", "gap_trend") and options["at"] == "peak":
        raise ConfigError([*path, "at"], f"estimator {estimator} has no peak: write a step, base or last")
    if estimator == "training" and isinstance(options["at"], str) and options["at"] != "last":
        raise ConfigError([*path, "at"], f"training metrics have no '{options['at']}': write a step or last")
    if estimator == "gap_trend" and options["low"] >= options["high"]:
        raise ConfigError([*path, "low"], f"{options['low']:g} is not below high ({options['high']:g}): correct one")
