"""Every evaluated checkpoint and the files that hold its graded responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srt.artefacts.paths import Paths
from srt.config.root import Config
from srt.config.runs import checkpoint_at


def evaluation_spec(config: Config) -> dict[str, Any]:
    """All evaluations, one entry per run: one per checkpoint would exceed a command line's 128 KiB."""
    runs = [
        {
            "run": name,
            "label": run.label,
            "method": run.method,
            "seeds": run.seeds,
            "starts": [config.start(instance) for instance in config.instances(name)],
            "steps": run.checkpoints,
            "suites": run.suites,
            "validation": run.validation.model_dump() if run.validation else None,
        }
        for name, run in config.runs.items()
    ]
    return {"results": config.results, "runs": runs}


def expand_evaluations(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every evaluated checkpoint of an `evaluation_spec`, and the groups file of each of its suites.

    Step 0 of a run is where it starts: its base model, or the checkpoint of another run.
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
    return rows


def evaluations(config: Config) -> list[dict[str, Any]]:
    """Every evaluated checkpoint: run, label, method, seed, step, and the groups file of each of its suites."""
    return expand_evaluations(evaluation_spec(config))
