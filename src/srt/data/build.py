"""Make the problem table of a data set entry, and the manifest that records how it was made."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from srt.common import io
from srt.data.problem_table import check, fingerprint, make_table

if TYPE_CHECKING:
    from srt.config.datasets import HubDataset, LocalDataset, ReasoningGymDataset

    Config = ReasoningGymDataset | LocalDataset | HubDataset


@dataclass
class Loaded:
    """A problem table and the facts of its manifest."""

    table: pa.Table
    counts: dict[str, int]
    columns: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    input_sha256: str | None = None
    commit: str | None = None  # of the hub's repository
    libraries: tuple[str, ...] = ("pyarrow",)

    def manifest(self, name: str, config: Config) -> dict[str, Any]:
        """Name, entry, fingerprint, counts, dropped rows with reasons and ids, versions; no times and no paths."""
        rows = self.table.select(["level", "subject", "source", "task"]).to_pydict()
        return {
            "name": name,
            "spec": config.model_dump(mode="json", exclude_unset=True),
            "fingerprint": fingerprint(self.table),
            "rows": self.table.num_rows,
            "by": {column: dict(sorted(Counter(values).items())) for column, values in rows.items()},
            "counts": self.counts,
            "columns": self.columns,
            "conflicts": self.conflicts,
            "dropped": {reason: {"rows": len(ids), "ids": ids} for reason, ids in sorted(self.dropped.items())},
            "input_sha256": self.input_sha256,
            **({"commit": self.commit} if self.commit else {}),
            "versions": {
                "python": f"{sys.version_info.major}.{sys.version_info.minor}",
                **{library: version(library) for library in self.libraries},
            },
        }


def load(config: Config, name: str, local_dir: Path | None = None) -> pa.Table:
    """The problem table (`PROBLEM_SCHEMA`) of a data set entry.

    Args:
        config: a validated entry (`srt.config.datasets`).
        name: the data set's name, used in errors only; no row depends on it.
        local_dir: folder to which paths of `local` entries are relative (default: the current folder). It may hold
            mirrors `{owner}/{name}/{revision}` of hub repositories.

    Raises:
        SrtError: wrong entry, file or row; the message names it and the fix.
    """
    return load_with_report(config, name, local_dir).table


def load_with_report(config: Config, name: str, local_dir: Path | None = None) -> Loaded:
    """Like `load`, with the facts for the manifest."""
    local_dir = Path(local_dir) if local_dir is not None else None
    if config.source == "reasoning_gym":
        loaded = _generated(config, name)
    elif config.source == "local":
        loaded = _local(config, local_dir)
    else:
        loaded = _hub(config, local_dir)
    loaded.table = check(loaded.table, f"data set '{name}'")
    return loaded


def _generated(config: ReasoningGymDataset, name: str) -> Loaded:
    from srt.data.generated import generate

    rows, counts = generate(config, name, _bar(name))
    return Loaded(make_table(rows), counts, libraries=("numpy", "pyarrow", "reasoning_gym"))


def _local(config: LocalDataset, local_dir: Path | None) -> Loaded:
    from srt.data.local_files import read_own, read_rows
    from srt.data.row_selection import select_rows

    path = config.file(local_dir)
    names, rows = read_rows(path) if config.reader is None else read_own(path, config.reader)
    picked = select_rows(config, str(path), path.stem, names, rows)
    table, digest = make_table(picked.rows), io.sha256_file(path)
    return Loaded(table, picked.counts, picked.columns, picked.dropped, picked.conflicts, digest)


def _hub(config: HubDataset, local_dir: Path | None) -> Loaded:
    from srt.data.hub import read_hub
    from srt.data.row_selection import select_rows

    names, rows, commit = read_hub(config, local_dir)
    stem = "-".join(filter(None, (config.repo.rpartition("/")[2], config.config_name, config.split)))
    picked = select_rows(config, f"{config.repo} split '{config.split}'", stem, names, rows)
    libraries = ("datasets", "huggingface_hub", "pyarrow")
    table = make_table(picked.rows)
    loaded = Loaded(table, picked.counts, picked.columns, picked.dropped, picked.conflicts, libraries=libraries)
    loaded.commit = commit
    return loaded


def _bar(name: str) -> Any:
    from srt.common.progress import is_terminal, progress_bar

    delay = 0.5 if is_terminal() else 15.0  # a job that is done sooner shows no bar
    return lambda rows: progress_bar(rows, desc=name, unit="row", delay=delay)
