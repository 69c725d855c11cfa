"""Test questions in training sets, found before the first job: of local files and of tables that are made already.

Only equal questions (`srt.data.question_text.normalise`) are counted here, in seconds; the audit of the workflow also
finds similar ones, in all sets. A run that learns from its own votes on a test set is test-time training, which its
configuration says: no warning.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from srt.artefacts.paths import Paths
from srt.audit.resolve import training_data
from srt.common.errors import SrtError
from srt.config.datasets import LocalDataset
from srt.config.lookups import lineage
from srt.config.root import Config
from srt.data.question_text import normalise


def overlaps(config: Config) -> list[str]:
    """A sentence for each training set that holds questions of a test set of the same runs."""
    runs: dict[tuple[str, str], list[str]] = {}
    for name, run in config.runs.items():
        tests = dict.fromkeys(d for suite in run.suites for d in config.members(suite))
        links = [config.runs[link] for link in lineage(config.runs, name)]
        labelled = {link.data for link in links if link.reward == "ground_truth"}
        for train in training_data(config, name):
            for test in tests:
                if train != test or train in labelled:
                    runs.setdefault((train, test), []).append(name)
    questions = cache(lambda dataset: _questions(config, dataset))
    found = []
    for (train, test), names in runs.items():
        shared = questions(train) & questions(test)
        if shared:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            found.append(
                f"{len(shared)} of {len(questions(test))} questions of test set '{test}' are in training set '{train}' "
                f"(run {names[0]}{more}): claims must hold without them (docs/claims.md); holdout_fraction makes "
                "disjoint sets of one file"
            )
    return found


def _questions(config: Config, dataset: str) -> frozenset[str]:
    """The normalised questions of a data set, empty if neither its table nor a local file is there."""
    from srt.data.build import load
    from srt.data.problem_table import read_problems

    entry, made = config.datasets[dataset], Path(Paths(config.results).problems(dataset))
    try:
        if isinstance(entry, LocalDataset) and entry.file(config.local_dir).is_file():  # the table may be older
            table = load(entry, dataset, Path(config.local_dir) if config.local_dir else None)
        elif made.is_file():
            table = read_problems(made)
        else:
            return frozenset()
    except SrtError:  # a faulty row: the data job, which follows, says so
        return frozenset()
    return frozenset(map(normalise, table["problem"].to_pylist())) - {""}
