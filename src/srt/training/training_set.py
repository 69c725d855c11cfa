"""What a training run reads: prompts, and the labels that its method may see."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.common.io import open_parquet, parquet_metadata, read_parquet
from srt.common.own_code import is_own
from srt.config.preferences import OFFLINE
from srt.config.runs import Reward
from srt.data.keys import hash_share
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
# further columns of rewards dpo and scpo and of a reward by confidence (srt.training.objectives), of runs with `refill`
# (srt.training.batches), `overlong_cache` (srt.training.rl_trainer), and a learning rate that is not constant
PAIRED = ("pair_accuracy", "pair_margin")
CONFIDENCE = ("confidence_reward",)
OVERLONG = ("overlong_punishment",)
SCHEDULED = ("learning_rate",)
REFILL = ("prompts_drawn", "prompts_kept", "drawn_keep_rate", "drawn_majority_ratio", "data_place")
DYNAMIC = ("drawn_unanimous_rate",)  # with `refill.dynamic_sampling`


@dataclass(frozen=True)
class TrainingSet:
    """Problems in order; `labels` maps ids to labels, or is None for a method that sees none (majority voting).

    `others_vote`: a problem without a label is trained on by the votes of its group (`mixed_labels`).

    `later` are labels that a run sees only once its collapse alarm has rung (`srt.training.alarm_action`). `stored` are
    the responses that a run without rollouts learns from.
    """

    ids: list[str]
    problems: list[str]
    tasks: list[str]
    labels: dict[str, str] | None
    later: dict[str, str] | None = None
    stored: Preferences | None = None
    others_vote: bool = False

    def after_alarm(self) -> TrainingSet:
        """The same problems with the later labels as labels."""
        return replace(self, labels=self.later, later=None)

    def has_label(self, position: int) -> bool:
        """Whether a problem can be trained on, because it has the label or the stored responses that the run uses."""
        needed = self.labels if self.stored is None else self.stored.rows
        return self.others_vote or needed is None or self.ids[position] in needed

    def labels_of(self, positions: Sequence[int]) -> list[str | None] | None:
        """The labels of the problems at these positions, None for a method without labels."""
        return None if self.labels is None else [self.labels.get(self.ids[i]) for i in positions]


def read_training_set(
    problems: Path,
    reward: str,
    subset: Path | None = None,
    labels: Path | None = None,
    on_alarm: str | None = None,
    preferences: Path | None = None,
    reward_labels: str | None = None,
    *,
    label_share: float | None = None,
    seed: int = 0,
) -> tuple[TrainingSet, dict[str, str]]:
    """The training set for a reward, and the true answers for the monitors.

    Args:
        problems: table of problems. Its column `answer` becomes a label only for `ground_truth`, and for
            `mixed_labels` of the chosen problems; otherwise it may be absent or hold anything, which changes the
            monitors and not the training.
        subset: table (column problem_id) of the problems to keep, in the order of `problems`.
        labels: table (columns problem_id, label) for `offline_labels`, as the reward or as the alarm's action.
        preferences: table of stored responses (`srt.labels.preferences`), for sft, dpo and scpo.
        reward_labels: what a reward that is a function of the user is given: `ground_truth`, `offline_labels` or, as
            for voting, None.
        label_share, seed: for `mixed_labels`, the run's `train.label_share` and seed.

    Raises:
        SrtError: a table that the reward needs is missing, or one that it must not see is given.
    """
    if is_own(reward):
        reward = reward_labels or "majority"  # it sees what a reward of this name sees
    if reward not in REWARDS:
        raise SrtError(f"unknown reward '{reward}'{nearest(reward, REWARDS)}")
    table = read_parquet(problems, ["id", "problem", "task"]).to_pandas()
    if subset is not None:
        keep = set(read_parquet(subset, ["problem_id"]).column("problem_id").to_pylist())
        unknown = keep - set(table["id"])
        if unknown:
            raise SrtError(f"{subset}: problem '{sorted(unknown)[0]}' is not in {problems}: rerun the curriculum rule")
        table = table[table["id"].isin(keep)]
    chosen = list(table["id"]) if reward == "ground_truth" else []
    if reward == "mixed_labels":
        if label_share is None:
            raise SrtError("reward mixed_labels needs train.label_share: set it")
        chosen = with_true_labels(table["id"], label_share, seed)
    truth = _answers(problems, reward, frozenset(chosen))
    used: dict[str, str] | None = None
    later: dict[str, str] | None = None
    if reward == "ground_truth":
        used = truth
    elif reward == "mixed_labels":
        used = {name: truth[name] for name in chosen}
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
    columns = (list(table[key]) for key in ("id", "problem", "task"))
    return TrainingSet(*columns, used, later, stored, others_vote=reward == "mixed_labels"), truth


def with_true_labels(ids: Iterable[str], share: float, seed: int) -> list[str]:
    """The `share` of these problem ids, rounded, at least one, whose true answers reward `mixed_labels` sees.

    They are those with the smallest hashes of run seed and id, so the choice depends on nothing else; that of a larger
    share contains it.

    >>> with_true_labels(["a", "b", "c", "d"], 0.5, seed=1)
    ['b', 'a']
    """
    ranked = sorted(ids, key=lambda name: (hash_share(f"label-share-{seed}", name), name))
    return ranked[: max(1, round(share * len(ranked)))]


def _answers(path: Path, reward: str, needed: Collection[str]) -> dict[str, str]:
    """True answers by problem id. Of rows that are not `needed` (ids), those without text or a number are left out."""
    with open_parquet(path) as file:
        if "answer" not in file.schema_arrow.names:
            if needed:
                raise SrtError(f"{path} has no column 'answer', which reward {reward} needs")
            return {}
    table = read_parquet(path, ["id", "answer"])
    answers = {}
    for row, (name, value) in enumerate(zip(*(table[key].to_pylist() for key in ("id", "answer")), strict=True)):
        try:
            answer = as_text(value, f"{path} row {row} (id '{name}')", "answer")
            if is_blank(answer):
                raise SrtError(
                    f"{path} row {row} (id '{name}'): the answer, which reward {reward} needs, is empty: fill it"
                )
            answers[name] = answer
        except SrtError:
            if name in needed:
                raise
    return answers


def training_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The metrics table of a run or a segment, columns in a fixed order."""
    further = (REFILL, DYNAMIC, PAIRED, CONFIDENCE, OVERLONG, SCHEDULED)
    columns = [*METRICS, *(c for own in further if rows and own[0] in rows[0] for c in own)]
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
