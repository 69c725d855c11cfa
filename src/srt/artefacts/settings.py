"""Evaluations with other sampling settings side by side: the name that the tables of a suite have in `eval/`.

The settings that a model is first sampled with on a suite have the suite's own name, as in `eval/base/qwen/core.…`.
Other settings (temperature, n, lengths, engine, …) have the name `core@` and 8 hex digits of the hash of these
settings. So changed settings never replace samples, and former settings find theirs again. Offline labels, stored
responses and curricula are named by the samples that they are made from, in the same way.

`eval/settings.json` says which settings each name of a model has. The main process writes it when a run starts, before
the first job, and every process of the run that reads the rules then finds the same names in it. For a name that the
file lacks, as with results from before, the samples on disk say what they were drawn with; a name without samples is
free.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srt.artefacts.paths import SAMPLES, Paths
from srt.artefacts.records import read_record, record_path
from srt.artefacts.specs import sample_spec
from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_json, spec_hash, write_json
from srt.config.evaluation import SETTINGS_MARK
from srt.config.root import Config

Settings = dict[str, Any]


def stored_suite(config: Config, model: str, suite: str) -> str:
    """The name of the tables of a suite for the checkpoints of a base model, under the configuration's settings."""
    if (model, suite) not in config.stored_suites:
        settings = settings_of(json.loads(sample_spec(config, model, suite)))
        config.stored_suites[model, suite] = settings_on_disk(config.results).name(config, model, suite, settings)
    return config.stored_suites[model, suite]


def settings_of(spec: Mapping[str, Any]) -> Settings:
    """A spec of samples without the revision of the code: a new revision replaces the samples of the old one."""
    return {key: value for key, value in spec.items() if key != "revision"}


def settings_on_disk(results: str) -> SettingsOnDisk:
    """The one object of a results folder in this process, which reads the folder once."""
    return _settings_on_disk(os.path.abspath(results))


@functools.cache
def _settings_on_disk(results: str) -> SettingsOnDisk:
    return SettingsOnDisk(Path(results))


class SettingsOnDisk:
    """What is known of the settings behind each name `{model}/{suite}` or `{model}/{suite}@…` of a results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.file = Path(Paths(str(results)).evaluation_settings())
        self.registered = self._read()
        self.used: dict[str, Settings] = {}  # in this process
        self.changes: list[str] = []  # phrases for names that are new beside others

    def name(self, config: Config, model: str, suite: str, settings: Settings) -> str:
        """The suite's own name if it is free or has these settings, otherwise one with the settings' hash."""
        own, other = f"{model}/{suite}", f"{model}/{suite}{SETTINGS_MARK}{spec_hash(settings)[:8]}"
        name = own
        if self.registered.get(own) != settings:
            if other in self.registered:
                name = other
            elif (known := self._of_samples(config, model, suite)) not in (None, settings):
                name = other
                self.used[own] = known
                self.changes.append(f"{model} on {suite}: {_difference(known, settings)}, as {other}")
        self.used[name] = settings
        return name.partition("/")[2]

    def register(self) -> None:
        """Write down the names that this process uses; called when a run starts, by the holder of the results' lock.

        Raises:
            SrtError: another run has given one of the names to other settings since this process has planned.
        """
        present = self._read()
        for name, settings in self.used.items():
            if present.get(name) not in (settings, self.registered.get(name)):
                raise SrtError(f"another run has sampled {name} with other settings meanwhile: give the command again")
        if (updated := present | self.used) != present:
            write_json(self.file, updated)
        self.registered, self.changes = updated, []

    def sentences(self) -> list[str]:
        """What is sampled beside existing results, in a sentence."""
        if not self.changes:
            return []
        more = f" ({len(self.changes) - 1} more)" if len(self.changes) > 1 else ""
        return [f"results of other sampling settings stay, and new ones are made beside them: {self.changes[0]}{more}"]

    def _read(self) -> dict[str, Settings]:
        if not self.file.exists():
            return {}
        found = read_json(self.file)
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise SrtError(f"{self.file} does not map names to settings: delete it; it is made again from the samples")
        return found

    def _of_samples(self, config: Config, model: str, suite: str) -> Settings | None:
        """The settings of the first samples that have the suite's own name; None if there are no samples."""
        known = None
        for checkpoint in self._sampled.get(suite, ()):
            try:
                of_model = config.checkpoint_model(checkpoint) == model
            except SrtError:  # a run that the configuration does not have
                continue
            if of_model:
                known = self.registered.get(f"{model}/{suite}")
                if found := _settings_of_file(Path(Paths(str(self.results)).samples(checkpoint, suite))):
                    return found
        return known

    @functools.cached_property
    def _sampled(self) -> dict[str, list[str]]:
        """The checkpoints with samples of each suite, base models first; read only for names that the file lacks."""
        found: dict[str, list[str]] = {}
        for checkpoint, suite in sorted(self._samples(), key=lambda pair: (not pair[0].startswith("base/"), pair)):
            found.setdefault(suite, []).append(checkpoint)
        return found

    def _samples(self) -> Iterator[tuple[str, str]]:
        folder = self.file.parent
        for path in folder.glob(f"*/*/*{SAMPLES}"):
            yield path.parent.relative_to(folder).as_posix(), path.name.removesuffix(SAMPLES)


def _difference(before: Settings, now: Settings) -> str:
    keys = [key for key in before | now if before.get(key) != now.get(key)]
    return ", ".join(f"{key}={before.get(key)}, now {now.get(key)}" for key in keys)


def _settings_of_file(samples: Path) -> Settings | None:
    """The settings in the record of a table of samples, or else in the table itself; None if neither says them."""
    try:
        record = read_record(record_path(samples))
        spec = json.loads(record["params"]["spec"]) if record else parquet_metadata(samples).get("spec")
    except (SrtError, KeyError, TypeError, ValueError):
        return None
    return settings_of(spec) if isinstance(spec, dict) else None
