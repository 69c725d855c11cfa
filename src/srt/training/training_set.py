"""What a training run reads: prompts, and the labels that its method may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.common.io import open_parquet, parquet_metadata, read_parquet
from srt.config.preferences import OFFLINE
from srt.config.runs import Reward
from srt.data.question_text import is_blank
from srt.data.row_selection import as_text
from srt.labels.preferences import Preferences

REWARDS = get_args(Reward)
METRICS = (
    "step", "reward", "true_accuracy", "reward_accuracy", "label_accuracy", "majority_ratio", "parsed_rate",
    "kl", "entropy", "response_length", "truncated_rate", "kept_rate", "loss", "grad_norm", "skipped",
    "distinct_majority", "top_majority_share", "unanimous_rate", "mismatch_mean", "mismatch_max", "mismatch_kl",
    "tokens", "packed_tokens",
)  # fmt: skip
# further columns of rewards dpo and scpo and of a reward by confidence (srt.training.objectives), and of runs with
# `refill` (srt.training.batches)
PAIRED = ("pair_accuracy", "pair_margin")
CONFIDENCE = ("confidence_reward",)
REFILL = ("prompts_drawn", "prompts_kept", "drawn_keep_rate", "drawn_majority_ratio", "data_place")


@dataclass(frozen=True)
class TrainingSet:
    """Problems in order; `labels` maps ids to labels, or is None for a method that sees none (majority voting).

    `later` are labels that a run sees only once its collapse alarm has rung (`srt.training.alarm_action`). `stored` are
    the responses that a run without rollouts learns from.
    """

    ids: list[str]
    problems: list[str]
    tasks: list[str]
    labels: dict[str, str] | None
    later: dict[str, str] | None = None
    stored: Preferences | None = None

    def after_alarm(self) -> TrainingSet:
        """The same problems with the later labels as labels."""
        return replace(self, labels=self.later, later=None)

    def has_label(self, position: int) -> bool:
        """Whether a problem can be trained on, because it has the label or the stored responses that the run uses."""
        needed = self.labels if self.stored is None else self.stored.rows
        return needed is None or self.ids[position] in needed

    def labels_of(self, positions: Sequence[int]) -> list[str | None] | None:
        """The labels of the problems at these positions, None for a method without labels."""
        return None if self.labels is None else [self.labels[self.ids[i]] for i in positions]


def read_training_set(
    problems: Path,
    reward: str,
    subset: Path | None = None,
    labels: Path | None = None,
    on_alarm: str | None = None,
    preferences: Path | None = None,
) -> tuple[TrainingSet, dict[str, str]]:
    """The training set for a reward, and the true answers for the monitors.

    Args:
        problems: table of problems. Its column `answer` becomes a label only for `ground_truth`; otherwise it may be
            absent or hold anything, which changes the monitors and not the training.
        subset: table (column problem_id) of the problems to keep, in the order of `problems`.
        labels: table (columns problem_id, label) for `offline_labels`, as the reward or as the alarm's action.
        preferences: table of stored responses (`srt.labels.preferences`), for sft, dpo and scpo.

    Raises:
        SrtError: a table that the reward needs is missing, or one that it must not see is given.
    """
    if reward not in REWARDS:
        raise SrtError(f"unknown reward '{reward}'{nearest(reward, REWARDS)}")
    table = read_parquet(problems, ["id", "problem", "task"]).to_pandas()
    truth = _answers(problems, needed=reward == "ground_truth")
    if subset is not None:
        keep = set(read_parquet(subset, ["problem_id"]).column("problem_id").to_pylist())
        unknown = keep - set(table["id"])
        if unknown:
            raise SrtError(f"{subset}: problem '{sorted(unknown)[0]}' is not in {problems}: rerun the curriculum rule")
        table = table[table["id"].isin(keep)]
    used: dict[str, str] | None = None
    later: dict[str, str] | None = None
    if reward == "ground_truth":
        used = truth
    elif "offline_labels" in (reward, on_alarm):
        if labels is None:
            key = "reward" if reward == "offline_labels" else "on_alarm:"
            raise SrtError(f"{key} offline_labels needs labels: give the table that the labels rule makes")
        rows = read_parquet(labels, ["problem_id", "label"]).to_pandas().dropna()
        label_of = dict(zip(rows["problem_id"], rows["label"], strict=True))
        used, later = (label_of, None) if reward == "offline_labels" else (None, label_of)
    elif labels is not None:
        raise SrtError(f"reward {reward} must not be given labels: it makes its own from the votes")
    if (preferences is None) == (reward in OFFLINE):
        if preferences is None:
            raise SrtError(f"reward {reward} needs preferences: give the table that the preferences rule makes")
        raise SrtError(f"reward {reward} samples its own responses: leave out preferences")
    stored = Preferences.read(preferences, reward) if preferences is not None else None
    return TrainingSet(list(table["id"]), list(table["problem"]), list(table["task"]), used, later, stored), truth


def _answers(path: Path, needed: bool) -> dict[str, str]:
    """True answers by problem id. Unless they are needed, rows whose answer is not text or a number are left out."""
    with open_parquet(path) as file:
        if "answer" not in file.schema_arrow.names:
            if needed:
                raise SrtError(f"{path} has no column 'answer', which reward ground_truth needs")
            return {}
    table = read_parquet(path, ["id", "answer"])
    answers = {}
    for row, (name, value) in enumerate(zip(*(table[key].to_pylist() for key in ("id", "answer")), strict=True)):
        try:
            answer = as_text(value, f"{path} row {row} (id '{name}')", "answer")
            if is_blank(answer):
                raise SrtError(
                    f"{path} row {row} (id '{name}'): the answer, which reward ground_truth needs, is empty: fill it"
                )
            answers[name] = answer
        except SrtError:
            if needed:
                raise
    return answers


def training_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The metrics table of a run or a segment, columns in a fixed order."""
    columns = [*METRICS, *(c for own in (REFILL, PAIRED, CONFIDENCE) if rows and own[0] in rows[0] for c in own)]
    # explicit types: the metrics of a segment after the run's end have no rows to infer them from
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns, "float64") | {"step": "int64"})


def join_metrics(paths: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The metrics of a run's segments as one table, and its metadata; a gap or overlap in the steps is an error."""
    for path in paths:
        read_parquet(path, ["step"])  # refuse what is not a metrics table
    frame = pd.concat([read_parquet(p).to_pandas() for p in paths], ignore_index=True)
    steps = frame["step"].tolist()
    if steps != list(range(1, len(steps) + 1)):
        raise SrtError(
            f"{paths[0].parent.parent}: steps of its segments have a gap or overlap ({steps[:3]} …): rerun the run"
        )
    return frame, parquet_metadata(paths[-1])
