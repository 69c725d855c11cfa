"""What a result was made from, in a small file beside it: parameters, inputs and outputs by content.

Snakemake keeps such records in `.snakemake`, which a copy of the results lacks and a clean-up removes. With its
own record, a result can be compared with the configuration wherever the result lies and whatever the times of its files
are. The record of the job whose first output is `P` is `P.made.json` (`model/` -> `model.made.json`):

    rule      name of the rule
    params    what the rule compares, by name; paths of the results folder as `{results}/...`
    inputs    content id by path, relative to the results folder
    outputs   content id by path

A content id is `model:` or `state:` and a hash for folders that list their own hashes, `sha256:` and a hash for files.
Here is no Snakemake: `srt.workflow` asks and writes, `srt adopt` writes for results that have no record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srt.common.io import canonical_json, sha256_file, write_json

# Rules whose results cost enough to be told apart from others by record. All others are made again in minutes.
RECORDED = frozenset(
    {"data", "base_model", "sample", "score", "labels", "preferences", "curriculum", "train", "train_last"}
)
VERSION = 1
SUFFIX = ".made.json"
SAME_RULE = {"train_last": "train"}  # a longer run turns the last segment of a shorter one into an earlier one
SHOWN = 60  # characters of a value in a sentence
COPYING = 60.0  # seconds that a copy may write a file after its record


@dataclass(frozen=True)
class Made:
    """What one job makes, or made, and from what; paths as in the workflow."""

    rule: str
    params: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Records:
    """The records of one results folder; each file is read once."""

    results: Path
    _read: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    _ids: dict[str, tuple[str | None, float]] = field(default_factory=dict)  # content by path, and when it was recorded
    _hashed: dict[str, str | None] = field(default_factory=dict)

    def path(self, made: Made) -> Path:
        """Where a job's record is."""
        return record_path(Path(made.outputs[0]))

    def get(self, made: Made) -> dict[str, Any] | None:
        """A job's record; None if the record is missing or damaged."""
        path = self.path(made)
        if str(path) not in self._read:
            record = read_record(path)
            self._read[str(path)] = record
            if record is not None:
                self._remember(record, path)
        return self._read[str(path)]

    def write(self, made: Made) -> None:
        """Record a job that has just ended well, or one whose outputs are adopted."""
        record = {
            "version": VERSION,
            "rule": SAME_RULE.get(made.rule, made.rule),
            "params": self._portable(made.params),
            "inputs": {self._relative(path): self._id(path) for path in made.inputs},
            "outputs": {self._relative(path): content_id(Path(path)) for path in made.outputs},
        }
        write_json(self.path(made), record)
        self._read[str(self.path(made))] = record
        self._remember(record, self.path(made))

    def drop(self, made: Made) -> None:
        """Remove the record of a job that begins: until the job ends well, its outputs have no known origin."""
        path = self.path(made)
        path.unlink(missing_ok=True)
        self._read[str(path)] = None
        for output in made.outputs:
            self._ids.pop(self._relative(output), None)
            self._hashed.pop(self._relative(output), None)

    def differences(self, made: Made) -> list[str] | None:
        """Phrases for differences between the record and what the job would be made from now; None without a record.

        An input's content id comes from its own record, and the input is read only if it has changed since. An input
        without a record counts as unchanged.
        """
        record = self.get(made)
        if record is None:
            return None
        said = []
        if record["rule"] != SAME_RULE.get(made.rule, made.rule):
            said.append(f"made by rule {record['rule']}")
        said += _changed(record["params"], self._portable(made.params))
        now = [self._relative(path) for path in made.inputs]
        said += [f"without the input {path}" for path in now if path not in record["inputs"]]
        said += [f"from {path}, no input now" for path in record["inputs"] if path not in now]
        for path, known in record["inputs"].items():
            present = self._present(path)
            if path in now and None not in (known, present) and known != present:
                said.append(f"from another {path}")
        return said

    def _id(self, path: str) -> str | None:
        """An input's content id, from its record or else its content; None if the input is gone (a removed state)."""
        known = self._present(self._relative(path))
        return known if known is not None else content_id(Path(path))

    def _remember(self, record: dict[str, Any], path: Path) -> None:
        time = path.stat().st_mtime
        self._ids.update({output: (known, time) for output, known in record["outputs"].items()})

    def _present(self, path: str) -> str | None:
        """A result's content id, from its record or, if written later, from its content; None without a record."""
        if path not in self._ids:
            return None
        known, time = self._ids[path]
        file = self.results / path
        if _written(file) <= time + COPYING:
            return known
        if path not in self._hashed:
            self._hashed[path] = content_id(file)
        return self._hashed[path]

    def _relative(self, path: str) -> str:
        """A path relative to the results folder if it is below it, otherwise unchanged."""
        try:
            return Path(path).relative_to(self.results).as_posix()
        except ValueError:
            return str(path)

    def _portable(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as JSON holds them, without the name of the results folder."""
        text = canonical_json({name: value for name, value in params.items()})
        return dict(json.loads(text.replace(f"{self.results}/", "{results}/")))


def record_path(output: Path) -> Path:
    """The path of the record of the job whose first output is `output`."""
    return output.with_name(f"{output.name.removesuffix('.parquet')}{SUFFIX}")


def read_record(path: Path) -> dict[str, Any] | None:
    """A record; None if it is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and record.get("version") == VERSION
    maps = ("params", "inputs", "outputs")
    return record if whole and all(isinstance(record.get(key), dict) for key in maps) else None


def _written(path: Path) -> float:
    """When a file, or the list in a folder, was written; 0 if the file is gone, as are states that were not kept."""
    for file in (path / "srt.json", path / "manifest.json", path):
        with contextlib.suppress(OSError):
            return file.stat().st_mtime
    return 0.0


def content_id(path: Path) -> str | None:
    """The content id of a file or folder; None if it is missing. Folders of models and states list their own hashes."""
    if path.is_file():
        return f"sha256:{sha256_file(path)}"
    for kind, name in (("model", "srt.json"), ("state", "manifest.json")):
        listed = path / name
        if listed.is_file():
            return f"{kind}:{sha256_file(listed)}"
    return None


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Phrases such as `train.learning_rate=0.001, now 0.05`; values that are JSON texts are compared key by key."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key.removeprefix('spec.')}={_short(old.get(key))}, now {_short(new.get(key))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, str) and value[:1] in "{[":
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, Mapping) and value:
            for key, each in value.items():
                visit(f"{path}.{key}", each)
        else:
            found[path] = value

    for name, value in params.items():
        visit(name, value)
    return found


def _short(value: Any) -> str:
    text = "absent" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def unrecorded(results: Path) -> list[Path]:
    """Expensive results of a folder that have no record, found by their names; nothing is read."""
    tables = [path for folder in ("data", "labels", "curriculum", "preferences") for path in _tables(results / folder)]
    tables += [path for path in _tables(results / "eval") if not path.name.endswith(".groups.parquet")]
    models = [path for path in (results / "models").glob("*/") if path.is_dir()]
    models += [path for path in (results / "runs").glob("*/step-*/model")]
    return [path for path in (*tables, *models) if not record_path(path).exists()]


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))
