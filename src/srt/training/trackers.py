"""Curves of a running segment in other programs: TensorBoard and Weights & Biases (W&B).

A tracker that fails costs one line of the log and its curves, never a step of training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from srt.artefacts.paths import METRICS_FILE
from srt.common.atomic_files import set_aside
from srt.common.io import canonical_json, sha256_bytes
from srt.common.progress import log
from srt.config.train import TrackerName

EVENTS_FOLDER = "tensorboard"
# TRL's name (RLOOTrainer, GRPOTrainer) of a quantity -> its column in metrics.jsonl or timing.jsonl; docs/monitors.md
# says where the two differ in their weights. TRL's callbacks show these names below `train/`.
TRL_NAMES = {
    "reward": "reward",
    "frac_reward_zero_std": "unanimous_rate",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "response_length",
    "completions/clipped_ratio": "truncated_rate",
    "sampling/sampling_logp_difference/mean": "mismatch_mean",
    "sampling/sampling_logp_difference/max": "mismatch_max",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "step_time": "seconds",
}
_TRL_NAME_OF = {column: name for name, column in TRL_NAMES.items()}
_STEP = "train/global_step"  # the horizontal axis of the Trainer's curves in W&B
_INSTALL = {"wandb": ", which `make setup-tracking` installs"}
# Settings of wandb that bound the seconds for which a server that does not answer holds up a segment: under a minute at
# its start, where wandb would try for hours, and a minute at its end. What is not sent by then stays in the folder.
PATIENCE = {
    "init_timeout": 20, "x_graphql_timeout_seconds": 5, "x_graphql_retry_max": 2, "x_graphql_retry_wait_max_seconds": 2,
    "finish_timeout": 60,
}  # fmt: skip


class Curves(Protocol):
    """What a tracker does with a step (1-based) and its rows of metrics and of times."""

    def write(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Add one step."""

    def close(self) -> None:
        """Hand over what is not written yet."""


class Trackers:
    """The trackers of a segment; for rank 0 only.

    Args:
        names: which ones.
        folder: an existing folder, which they write to.
        step: the resumed step (0: none).
        spec: the run's spec.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, step: int, spec: Mapping[str, Any]) -> None:
        self.running: dict[str, Curves] = {}
        for name in dict.fromkeys(names):
            with self._tolerated(name):
                self.running[name] = TensorBoard(folder, step) if name == "tensorboard" else Wandb(folder, step, spec)

    def write(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Add one step to all curves."""
        for name, tracker in list(self.running.items()):
            with self._tolerated(name):
                tracker.write(int(metrics["step"]), metrics, timing)

    def close(self) -> None:
        """Close all trackers."""
        for name, tracker in list(self.running.items()):
            with self._tolerated(name):
                tracker.close()

    @contextmanager
    def _tolerated(self, name: str) -> Iterator[None]:
        """Drop a tracker that raises anything, and say so in one line."""
        try:
            yield
        except ImportError:
            self._drop(name, f"the package '{name}' is not installed{_INSTALL.get(name, '')}")
        except Exception as error:
            self._drop(name, f"it failed with {_one_line(error)}")

    def _drop(self, name: str, why: str) -> None:
        self.running.pop(name, None)
        log(f"tracker {name} is off: {why} ({METRICS_FILE} has the data, training goes on)")


class TensorBoard:
    """Scalars `metrics/*` and `timing/*`; events of earlier attempts after the resumed `step` are purged."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        events = folder / EVENTS_FOLDER
        if events.exists() and not events.is_dir():
            aside = set_aside(events).name
            log(f"{events} is damaged (it is not a folder): renamed to {aside}, and a new log is started")
        self.writer = SummaryWriter(str(events), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Add one step."""
        for name, value in _scalars(metrics, timing):
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file of events."""
        self.writer.close()


class Wandb:
    """One run of W&B for a training run: all segments and all attempts after a kill go on with it.

    Its id comes from the run's name, the folder of its logs and its spec, so a run that is trained anew with other
    settings is another one. Without an API key, with WANDB_MODE=offline, or where the server does not answer, the
    curves stay in {folder}/wandb until `wandb sync` sends them.
    """

    def __init__(self, folder: Path, step: int, spec: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb's own errors would be sent to its makers
        import wandb

        settings = wandb.Settings(console="off", disable_git=True, save_code=False, **PATIENCE)

        def start(**how: str | None) -> Any:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", "srt"), id=run_id(folder, spec), name=spec["run"],
                config=dict(spec), dir=str(folder), settings=settings, **how,
            )  # fmt: skip

        mode = os.environ.get("WANDB_MODE") or "online"
        why = f"WANDB_MODE is {mode}"
        if mode == "online" and not wandb.api.api_key:  # wandb would ask for one
            mode, why = "offline", "there is no API key"
        try:
            # A run that starts from nothing replaces what the server has under its id.
            self.run = start(mode=mode, resume="allow" if step and mode == "online" else None)
        except Exception as error:
            if mode == "offline":
                raise
            why = f"its server gives no run: {_one_line(error)}"
            wandb.teardown()  # else the id counts as in use
            self.run = start(mode="offline")
        if self.run.settings.mode == "offline":
            log(f"W&B works offline ({why}); to send its curves: wandb sync --append {folder}/wandb/offline-run-*")
        self.run.define_metric(_STEP)
        self.run.define_metric("*", step_metric=_STEP, step_sync=True)

    def write(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Add one step."""
        self.run.log({_STEP: step, **{wandb_name(name): value for name, value in _scalars(metrics, timing)}})

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


def run_id(folder: Path, spec: Mapping[str, Any]) -> str:
    """The id of a training run in W&B, the same for all its segments."""
    return f"{spec['run']}-{sha256_bytes(canonical_json([str(folder.resolve()), spec]).encode())[:8]}"


def wandb_name(scalar: str) -> str:
    """W&B's curve of `metrics/COLUMN` or `timing/COLUMN`: `train/` and TRL's name where TRL has the same quantity."""
    name = _TRL_NAME_OF.get(scalar.partition("/")[2])
    return scalar if name is None else f"train/{name}"


def _scalars(metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`metrics/COLUMN` and `timing/COLUMN` with their finite values."""
    for group, values in (("metrics", metrics), ("timing", timing)):
        for key, value in values.items():
            if key != "step" and math.isfinite(value):
                yield f"{group}/{key}", value


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
