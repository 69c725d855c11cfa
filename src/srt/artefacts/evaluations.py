"""Every evaluated checkpoint and the files that hold its graded responses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srt.artefacts.paths import GROUPS, Paths
from srt.artefacts.settings import stored_suite
from srt.config.evaluation import SETTINGS_MARK
from srt.config.root import Config
from srt.config.runs import checkpoint_at

BASE = "base/"  # what the names of base models' checkpoints begin with


def evaluation_spec(config: Config) -> dict[str, Any]:
    """All evaluations, one entry per run: one per checkpoint would exceed a command line's 128 KiB.

    The models of `evaluate` are entries of their own, in a key that a configuration without them does not have.
    """
    runs = [
        {
            "run": name,
            "label": run.label,
            "method": run.method,
            "seeds": run.seeds,
            "starts": [config.start(instance) for instance in config.instances(name)],
            "steps": run.checkpoints,
            "suites": [stored_suite(config, run.model, suite) for suite in run.suites],
            "validation": run.validation.model_dump() if run.validation else None,
        }
        for name, run in config.runs.items()
    ]
    spec = {"results": config.results, "runs": runs}
    return spec if config.evaluate is None else {**spec, "evaluate": evaluated(config)}


def evaluated(config: Config) -> list[dict[str, Any]]:
    """Each model, suite and seed of `evaluate`, with the name of the suite's tables."""
    return [
        {"model": model, "suite": suite, "seed": seed, "stored": stored_suite(config, model, name)}
        for model in config.evaluated_models()
        for suite in (config.evaluate.suites if config.evaluate else [])
        for seed, name in config.evaluation_seeds(model, suite).items()
    ]


def expand_evaluations(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every evaluated checkpoint of an `evaluation_spec`, and the groups file of each of its suites.

    Step 0 of a run is where it starts: its base model, or the checkpoint of another run. A model of `evaluate` has the
    run `base/{model}`, which is the name of its checkpoint, step 0, and a row for each seed of its samples.
    """
    paths, rows = Paths(spec["results"]), []
    for run in spec["runs"]:
        for seed, start in zip(run["seeds"], run["starts"], strict=True):
            instance = f"{run['run']}-s{seed}"
            for step in (0, *run["steps"]):
                checkpoint = checkpoint_at(instance, step) if step else start
                rows.append(
                    {
                        "run": instance,
                        "label": run["label"],
                        "method": run["method"],
                        "seed": seed,
                        "step": step,
                        "groups": [paths.groups(checkpoint, suite) for suite in run["suites"]],
                    }
                )
    models: dict[tuple[str, int], list[str]] = {}
    for one in spec.get("evaluate", ()):
        file = paths.groups(f"{BASE}{one['model']}", one["stored"])
        models.setdefault((one["model"], one["seed"]), []).append(file)
    rows += [
        {"run": f"{BASE}{model}", "label": model, "method": "base", "seed": seed, "step": 0, "groups": groups}
        for (model, seed), groups in models.items()
    ]
    return rows


def kept_evaluations(config: Config) -> dict[str, list[dict[str, Any]]]:
    """The evaluations of each run's start and last step on disk, as in `evaluations`, by the name of their tables.

    A suite has several names where it was sampled with several settings (`srt.artefacts.settings`).
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in evaluations(config):
        if row["step"] and row["step"] != config.entry(row["run"]).run.checkpoints[-1]:
            continue
        for file in map(Path, row["groups"]):
            suite = file.name.removesuffix(GROUPS).partition(SETTINGS_MARK)[0]
            for each in sorted(
                [*file.parent.glob(f"{suite}{GROUPS}"), *file.parent.glob(f"{suite}{SETTINGS_MARK}*{GROUPS}")]
            ):
                found.setdefault(each.name.removesuffix(GROUPS), []).append({**row, "groups": [str(each)]})
    return found


def evaluations(config: Config) -> list[dict[str, Any]]:
    """Every evaluated checkpoint: run, label, method, seed, step, and the groups file of each of its suites."""
    return expand_evaluations(evaluation_spec(config))
