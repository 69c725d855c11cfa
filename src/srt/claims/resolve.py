"""What the claims read, resolved from the configuration: runs, seeds, checkpoints and suites, but no long path lists.

The spec goes into one command-line argument (128 KiB at most on Linux), so a run is named once, by its parts;
`Evidence` puts paths together with `srt.artefacts.paths`.
"""

from __future__ import annotations

from typing import Any

from srt.artefacts.paths import Paths
from srt.artefacts.settings import stored_suite
from srt.config.claims import FROM_TRAINING
from srt.config.lookups import lineage
from srt.config.root import Config
from srt.config.runs import checkpoint_at


def resolve_claims(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The spec of all claims, and the files that they read: the inputs of their job, beside the audit's clean rows."""
    paths = Paths(config.results)
    claims: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    inputs: list[str] = []
    for name, claim in config.claims.items():
        claims[name] = claim.model_dump(mode="json", exclude_none=True)
        options = claim.options
        for run in filter(None, [options.get("run"), options.get("against"), *(options.get("also") or ())]):
            if run not in runs:
                runs[run] = _run(config, run)
            wanted = {*options.get("datasets", ()), *(options.get("against_datasets") or ())}
            wanted |= {options["validation_dataset"]} if "validation_dataset" in options else set()
            if claim.estimator == "suite_gain":
                ends = {**runs[run], "steps": [options["at"] or runs[run]["steps"][-1]]}
                named = [name for seed in checkpoints(ends) for name in seed]
                inputs += [paths.groups(name, stored(ends, suite)) for name in named for suite in options["suites"]]
                continue
            inputs += _files(paths, runs[run], wanted)
            if claim.estimator in FROM_TRAINING:
                inputs += [paths.run_metrics(instance) for instance in runs[run]["instances"]]
    spec = {"results": config.results, "claims": claims, "runs": runs, "clean": paths.clean_rows()}
    if alarm := config.alarm.changed():
        spec["alarm"] = alarm
    return spec, list(dict.fromkeys(inputs))


def _run(config: Config, run: str) -> dict[str, Any]:
    """One run: its seeds' names, where each starts (its checkpoint of step 0), its steps and its suites' members."""
    entry, instances = config.runs[run], config.instances(run)
    suites = [*entry.suites, *(entry.probe.suites if entry.probe else [])]
    names = {suite: stored_suite(config, entry.model, suite) for suite in suites}
    renamed = {suite: name for suite, name in names.items() if name != suite}
    return {
        "instances": instances,
        "starts": [config.start(instance) for instance in instances],
        "steps": entry.checkpoints,
        "suites": {suite: config.members(suite) for suite in entry.suites},
        "trained_on": trained_on(config, run),
        **({"stored": renamed} if renamed else {}),
    }


def trained_on(config: Config, run: str) -> dict[str, bool]:
    """The training sets of a run and of those that it starts from, and whether their true answers were learned from."""
    found: dict[str, bool] = {}
    for name in lineage(config.runs, run):
        entry = config.runs[name]
        found[entry.data] = found.get(entry.data, False) or entry.reward == "ground_truth"
    return found


def stored(run: dict[str, Any], suite: str) -> str:
    """The name of the tables of a suite (`srt.artefacts.settings`)."""
    return str(run.get("stored", {}).get(suite, suite))


def suite_of(run: dict[str, Any], dataset: str) -> str | None:
    """The first of the run's suites that holds the data set."""
    return next((suite for suite, members in run["suites"].items() if dataset in members), None)


def checkpoints(run: dict[str, Any]) -> list[list[str]]:
    """Names of the evaluated checkpoints [seeds][1 + steps], step 0 first."""
    return [
        [start, *(checkpoint_at(instance, step) for step in run["steps"])]
        for instance, start in zip(run["instances"], run["starts"], strict=True)
    ]


def _files(paths: Paths, run: dict[str, Any], datasets: set[str]) -> list[str]:
    """Groups files of the run's checkpoints; a data set that the run lacks belongs to the claim's other run."""
    suites = [s for s in run["suites"] if any(suite_of(run, d) == s for d in datasets)]
    return [paths.groups(name, stored(run, suite)) for seed in checkpoints(run) for name in seed for suite in suites]
