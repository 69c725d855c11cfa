"""A results folder as pandas frames, for notebooks and other people's scripts.

Nothing here reads a configuration or starts Snakemake: what is in the folder is what there is. docs/results.md lists
the columns of every frame.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from srt.artefacts.paths import GROUPS, SAMPLES, SCORES, Paths
from srt.common.errors import SrtError, nearest
from srt.common.io import parquet_metadata, read_parquet
from srt.config.runs import run_and_step

EVALUATION = ("checkpoint", "run", "step", "suite")
QUESTION = ("problem", "answer")
# The tables of a results folder, and the target that makes each.
TABLES = {
    "results": "results_table", "decontaminated": "decontaminated", "early_stopping": "early_stopping",
    "gradings": "gradings", "claims": "claims", "overlap": "audit", "pairs": "audit", "faults": "audit",
    "costs": "costs", "provenance": "provenance", "evaluate": "evaluate",
}  # fmt: skip


class Results:
    """What the results folder `folder` holds, such as `results/smoke`.

    A checkpoint is `base/{model}` or `{run}/step-{n}`, where a run is of one seed (`{id}-s{seed}`), as in the folder.

    >>> Results("no/such/folder")
    Traceback (most recent call last):
    ...
    srt.common.errors.SrtError: no/such/folder is not a folder: name one that snakemake has filled, as results/smoke

    Raises:
        SrtError: the folder does not exist. Each method raises one that names a missing file and what makes it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._paths = Paths(str(self.folder))
        if not self.folder.is_dir():
            raise SrtError(f"{self.folder} is not a folder: name one that snakemake has filled, as results/smoke")

    # -- what there is -----------------------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        """The data sets with a problem table, by name."""
        return sorted(path.stem for path in self.folder.glob("data/*.parquet"))

    def runs(self) -> list[str]:
        """The finished runs, each of one seed."""
        return sorted(path.parent.name for path in self.folder.glob("runs/*/metrics.parquet"))

    def evaluations(self) -> pd.DataFrame:
        """The evaluated checkpoints: one row per checkpoint and suite, base models first, steps in their order.

        A base model has the run "" and step 0.
        """
        rows = []
        for path in self.folder.glob(f"eval/*/*/*{GROUPS}"):
            checkpoint = self._paths.evaluated(path)
            run, step = ("", 0) if checkpoint.startswith("base/") else run_and_step(checkpoint)
            rows.append((checkpoint, run, step, path.name.removesuffix(GROUPS)))
        frame = pd.DataFrame(rows, columns=list(EVALUATION)).astype({"step": int})
        return frame.sort_values(["run", "step", "checkpoint", "suite"], ignore_index=True)

    # -- frames ------------------------------------------------------------------------------------------------------

    def problems(self, dataset: str) -> pd.DataFrame:
        """The problem table of a data set: one row per question."""
        path = Path(self._paths.problems(dataset))
        if not path.is_file():
            raise SrtError(f"{path} does not exist{nearest(dataset, self.datasets())}: make it with snakemake all_data")
        return read_parquet(path).to_pandas()

    def samples(self, checkpoint: str, suite: str) -> pd.DataFrame:
        """The raw responses of a checkpoint to a suite: one row per response."""
        return self._evaluated(checkpoint, suite, SAMPLES)

    def scores(self, checkpoint: str, suite: str) -> pd.DataFrame:
        """Answer, vote and verdict of the same responses: one row per response."""
        return self._evaluated(checkpoint, suite, SCORES)

    def groups(self, checkpoint: str, suite: str) -> pd.DataFrame:
        """Votes and accuracy per problem: one row per problem."""
        return self._evaluated(checkpoint, suite, GROUPS)

    def responses(self, checkpoint: str, suite: str) -> pd.DataFrame:
        """Question, true answer, response, its answer and its verdict: one row per response.

        Tokens and log-probabilities are left out; `samples` has them.
        """
        key = ["dataset", "problem_id"]
        samples = self.samples(checkpoint, suite).drop(columns=["token_ids", "logprobs", "seed"])
        scores = self.scores(checkpoint, suite)
        questions = [
            self.problems(name)[["id", *QUESTION]]
            .rename(columns={"id": "problem_id", "answer": "reference"})
            .assign(dataset=name)
            for name in dict.fromkeys(samples["dataset"])
        ]
        joined = samples.merge(pd.concat(questions, ignore_index=True), on=key, how="left", validate="many_to_one")
        joined = joined.merge(scores, on=[*key, "sample"], how="left", validate="one_to_one")
        order = [*key, "sample", "problem", "reference", "response", "finish_reason"]
        return joined[[*order, "answer", "class_id", "correct", "reason"]]

    def settings(self, checkpoint: str, suite: str) -> dict[str, Any]:
        """What the responses were drawn with: n, temperature, top_p, max_new_tokens, engine, prompt_suffix, ..."""
        path = self._evaluation(checkpoint, suite, SAMPLES)
        settings: dict[str, Any] = parquet_metadata(path)["spec"]
        return settings

    def metrics(self, run: str | None = None) -> pd.DataFrame:
        """The training metrics of a run: one row per step; of all finished runs, with a first column `run`, by default.

        Runs may have different columns; a metric that a run lacks is NaN.
        """
        if run is None:
            frames = [self.metrics(name).assign(run=name) for name in self.runs()]
            if not frames:
                raise SrtError(f"{self.folder} has no finished run: make them with snakemake all_train")
            frame = pd.concat(frames, ignore_index=True)
            return frame[["run", *(column for column in frame if column != "run")]]
        path = Path(self._paths.run_metrics(run))
        if not path.is_file():
            raise SrtError(f"{path} does not exist{nearest(run, self.runs())}: make it with snakemake all_train")
        return read_parquet(path).to_pandas()

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables over all runs: `results`, `decontaminated`, `claims`, `costs`, ... (docs/results.md)."""
        if name not in TABLES:
            raise SrtError(f"there is no table '{name}'{nearest(name, TABLES)}")
        return _csv(self.table_file(name), TABLES[name])

    def table_file(self, name: str) -> Path:
        """Where a table of `TABLES` is."""
        paths, target = self._paths, TABLES[name]
        others = {"claims": paths.claims("csv"), "costs": paths.costs(), "provenance": paths.provenance()}
        return Path(paths.audit(f"{name}.csv") if target == "audit" else others.get(name) or paths.table(name))

    def figure(self, name: str) -> pd.DataFrame:
        """The numbers that a figure shows: one row per point, with the ends of its interval."""
        return _csv(Path(self._paths.figure(name, "csv")), "all_figures")

    def _evaluated(self, checkpoint: str, suite: str, kind: str) -> pd.DataFrame:
        return read_parquet(self._evaluation(checkpoint, suite, kind)).to_pandas()

    def _evaluation(self, checkpoint: str, suite: str, kind: str) -> Path:
        """The file of an evaluation, which is there."""
        path = Path(f"{self._paths.evaluation(checkpoint, suite)}{kind}")
        if path.is_file():
            return path
        there = self.evaluations()
        known = there[there["checkpoint"] == checkpoint]["suite"]
        near = nearest(suite, known) if len(known) else nearest(checkpoint, there["checkpoint"].unique())
        raise SrtError(f"{path} does not exist{near}: make it with snakemake all_eval")


def _csv(path: Path, target: str) -> pd.DataFrame:
    """A table as `srt.common.io.write_csv` writes it: only an empty cell is missing, so a label `NA` stays text."""
    if not path.is_file():
        raise SrtError(f"{path} does not exist: make it with snakemake {target}")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])
