"""Models of earlier checkpoints that nothing needs any more: key `keep_models: needed`, and `srt prune`.

The model of a checkpoint is needed by its samples alone; figures, tables, claims, pages, labels and exports are made
from these. It can go once all samples that the configuration asks for are there and their records agree with the
configuration. What stays: the last model of each run, a model that another run starts from, all states and all records.
So no job is planned because of it, and each run can be extended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srt.artefacts.records import Made, Records, record_path
from srt.artefacts.specs import sample_spec
from srt.common.atomic_files import remove_folder
from srt.config.root import Config
from srt.plan.jobs import Dag, Job, build


@dataclass(frozen=True)
class Model:
    """The model of an earlier checkpoint that is on disk, and why it stays ("": it can go)."""

    checkpoint: str
    path: Path
    bytes: int
    needed: str


class Pruner:
    """Finds what can be deleted in the results folder of a configuration."""

    def __init__(self, config: Config, dag: Dag | None = None) -> None:
        self.config, self.dag = config, dag or build(config)
        self._segments = {job.prunable: job for job in self.dag.jobs.values() if job.prunable}

    def models(self) -> list[Model]:
        """Every model of an earlier checkpoint that is on disk, in the order of the DAG."""
        records = Records(Path(self.config.results))
        return [
            Model(job.name, Path(path), _bytes(Path(path)), self._needed(job, records))
            for path, job in self._segments.items()
            if Path(path).is_dir()
        ]

    def prune(self, path: str) -> None:
        """Delete a model if it is of an earlier checkpoint and nothing needs it."""
        job = self._segments.get(path)
        if job and Path(path).is_dir() and not self._needed(job, Records(Path(self.config.results))):
            remove_folder(Path(path))

    def _needed(self, job: Job, records: Records) -> str:
        if any(path != job.prunable and not Path(path).exists() for path in job.outputs):
            return "its segment is not finished"
        if not record_path(Path(job.prunable)).exists():
            return "its own record is missing"
        records.get(Made(job.rule, {}, (), (job.prunable,)))  # its content id, which the samples' records have as input
        for key in self.dag.readers(job.prunable):
            reader = self.dag.jobs[key]
            if reader.rule != "sample":
                return f"{key} reads it"
            if not all(Path(path).exists() for path in reader.outputs):
                return f"{reader.outputs[0]} is not made"
            checkpoint, _, suite = reader.name.rpartition("/")
            spec = sample_spec(self.config, self.config.checkpoint_model(checkpoint), suite)
            differences = records.differences(Made("sample", {"spec": spec}, reader.inputs, reader.outputs))
            if differences is None:
                return f"{reader.outputs[0]} has no record of what it was made from"
            if differences:
                return f"{reader.outputs[0]} is made again"
        return ""


class WhileRunning:
    """Deletes models while a workflow runs: first those that no planned job reads, then each after its last job.

    Args:
        planned: of each planned sampling job the model that it reads and its first output.
    """

    def __init__(self, pruner: Pruner, planned: Iterable[tuple[str, str]]) -> None:
        self.pruner = pruner
        self.waiting: dict[str, set[str]] = {}
        for model, output in planned:
            self.waiting.setdefault(model, set()).add(output)
        for found in pruner.models():
            if not found.needed and str(found.path) not in self.waiting:
                remove_folder(found.path)

    def made(self, model: str, output: str) -> None:
        """A sampling job has ended well."""
        waiting = self.waiting.get(model, set())
        waiting.discard(output)
        if not waiting:
            self.pruner.prune(model)


def sentence_on_pruned(outputs: Iterable[str]) -> str:
    """What it means if planned jobs make models again that were there and were deleted; "" if none does."""
    paths = (path for path in map(Path, outputs) if path.name == "model" and path.parent.name.startswith("step-"))
    again = [path for path in paths if not path.exists() and record_path(path).exists()]
    if not again:
        return ""
    return (
        f"{len(again)} models that were pruned are needed again, so their runs are trained again up to there (first "
        f"{again[0]}): leave out what is new for these checkpoints, such as a suite, or accept the training"
    )


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
