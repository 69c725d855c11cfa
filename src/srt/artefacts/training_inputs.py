"""What a training segment reads: its start, its problems, its last state, and what only some methods need."""

from __future__ import annotations

from srt.artefacts.paths import Paths
from srt.artefacts.settings import stored_suite
from srt.artefacts.specs import preference_spec
from srt.common.errors import SrtError
from srt.config.root import Config
from srt.config.runs import checkpoint_at


def suite_problems(config: Config, suite: str) -> list[str]:
    """The problem tables of a suite."""
    return [Paths(config.results).problems(dataset) for dataset in config.members(suite)]


def previous_step(config: Config, run: str, step: int) -> int:
    """The step that the segment up to `step` starts from, 0 for the first one.

    Raises:
        SrtError: the run has no checkpoint at `step`.
    """
    steps = config.entry(run).run.checkpoints
    if step not in steps:
        raise SrtError(f"run {run} has no checkpoint at step {step}: its steps are {', '.join(map(str, steps))}")
    return ([0, *steps])[steps.index(step)]


def segment_inputs(config: Config, run: str, step: int) -> dict[str, str]:
    """Inputs of the segment of a run (of one seed) up to `step`, by name."""
    paths = Paths(config.results)
    inputs = {
        "base": paths.checkpoint(config.start(run)),
        "problems": paths.problems(config.entry(run).run.data),
    }
    if start := previous_step(config, run, step):
        inputs["resume"] = paths.segment_state(checkpoint_at(run, start))
    return inputs | method_inputs(config, run)


def method_inputs(config: Config, run: str) -> dict[str, str]:
    """Inputs that only some methods have: labels, stored responses, a subset of the problems."""
    paths, entry = Paths(config.results), config.entry(run).run
    inputs = {}
    if entry.uses_labels:
        inputs["labels"] = paths.labels(teacher := config.teacher(run), _stored(config, teacher, entry.data))
    if entry.uses_stored_responses:
        inputs["preferences"] = preferences_file(config, run)
    if entry.curriculum:
        fraction = f"{entry.curriculum.fraction:.4f}"
        model = config.ranking_model(entry)
        suite = stored_suite(config, model, entry.data)
        inputs["subset"] = paths.subset(model, suite, entry.curriculum.by, fraction)
    return inputs


def preferences_file(config: Config, run: str) -> str:
    """The stored responses of a run; runs with the same spec share them."""
    spec = preference_spec(config, run)
    values = ["all" if value is None else f"{value}" for key, value in spec.items() if key != "seed"]
    part = "-".join([*values, f"s{spec['seed']}"])
    teacher = config.teacher(run)
    return Paths(config.results).preferences(teacher, _stored(config, teacher, config.entry(run).run.data), part)


def _stored(config: Config, checkpoint: str, suite: str) -> str:
    return stored_suite(config, config.checkpoint_model(checkpoint), suite)
