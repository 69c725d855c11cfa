"""What follows from a whole configuration for one run or figure: lineage, and which data sets of which suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from srt.common.errors import SrtError
from srt.config.figures import Figure, Panel
from srt.config.root import Config
from srt.config.runs import Run


def lineage(runs: Mapping[str, Run], name: str) -> list[str]:
    """The runs that lead to `name` by `init`, the first from a base model, and `name` itself."""
    found = [name]
    while (init := runs[found[-1]].init) is not None:
        found.append(init.run)
    return found[::-1]


def figure_suites(
    config: Config, figure: Figure, run: str, datasets: Sequence[str], panel: Panel | None = None
) -> list[str]:
    """The suites whose samples of a run hold `datasets`: the panel's, the figure's, or the run's first with each."""
    given = (panel.suite if panel else None) or figure.suite
    if given is not None:
        return [given]
    found: list[str] = []
    for dataset in datasets:
        holders = [suite for suite in config.runs[run].suites if dataset in config.members(suite)]
        if not holders:
            raise SrtError(f"run '{run}' is not evaluated on '{dataset}': add it to the run's suites")
        if not set(holders) & set(found):
            found.append(holders[0])
    return found


def figure_datasets(config: Config, figure: Figure, panel: Panel, run: str) -> list[str]:
    """The data sets of a figure's panel that a run of a chain is evaluated on."""
    evaluated = {member for suite in config.runs[run].suites for member in config.members(suite)}
    return [name for name in panel.datasets or figure.datasets if name in evaluated]
