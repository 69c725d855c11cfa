"""The rollouts of a page, chosen and read from samples, scores and groups of a run's checkpoints.

A page shows at most `max_rollouts` responses, and all responses to each problem that it shows, since a vote can only be
read whole. Each step has the same problems, so that a problem can be followed through training. Each data set gets an
equal share of the problems (small sets leave what they do not need to the others), evenly spaced in its order: nothing
is picked by its outcome. Averages of a step are over all of its problems, shown or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from srt.artefacts.paths import GROUPS, SAMPLES, SCORES
from srt.common.errors import SrtError
from srt.common.io import open_parquet, parquet_metadata, read_parquet

SPEC = ("run", "label", "model", "reward", "points")
GROUP_COLUMNS = [
    "dataset", "problem_id", "reference", "n", "parsed", "majority", "majority_count", "consistency_all", "pass_rate",
    "majority_correct", "truncated", "mean_length",
]  # fmt: skip
SCORE_COLUMNS = ["dataset", "problem_id", "sample", "answer", "class_id", "correct", "reason"]
SAMPLE_COLUMNS = ["dataset", "problem_id", "sample", "response", "token_ids", "finish_reason"]
MAX_CHARS = 16_000  # of one response; of a longer one the middle is left out
MAX_ANSWER = 300
MAX_POINTS = 400  # of the training curve
CURVES = ("true_accuracy", "majority_ratio")  # of the training metrics
Key = tuple[str, str]  # data set, problem id


@dataclass
class Page:
    """The data of a page: an index (JSON) and the texts of each step."""

    index: dict[str, Any]
    texts: list[list[str]] = field(default_factory=list)  # one list per step, in the order of its responses


def collect(spec: Mapping[str, Any], problems: Sequence[Path], max_rollouts: int) -> Page:
    """Read what a page shows.

    `spec` has run, label, model, reward and points: a list of {"step": n, "name": text, "stems":
    [`Paths.evaluation` of the checkpoint, one per suite]}, and optionally metrics, the run's training metrics, whose
    curve is shown above. `problems` are the problem tables of all data sets.
    """
    if max_rollouts < 1:
        raise SrtError(f"--max-rollouts must be at least 1, not {max_rollouts}")
    if not spec["points"]:
        raise SrtError(f"run '{spec['run']}' has no evaluated step to show")
    groups = [_groups(point["stems"]) for point in spec["points"]]
    shown = choose(groups, max_rollouts)
    texts = _problems(problems, shown)
    page = Page(
        {
            "run": spec["run"],
            "label": spec["label"],
            "model": spec["model"],
            "reward": spec["reward"],
            "sets": list(dict.fromkeys(dataset for dataset, _ in shown)),
            "steps": [
                {"step": point["step"], "name": point["name"], "sets": _averages(table)}
                for point, table in zip(spec["points"], groups, strict=True)
            ],
            "training": _training(spec.get("metrics")),
            "problems": [{"set": d, "id": i, **texts[d, i]} for d, i in shown],
            "groups": [],
            "answers": [],
            "reasons": [],
            "finish": [],
            "responses": {name: [] for name in ("answer", "class", "correct", "length", "finish", "reason", "sample")},
            "in_all": {
                "problems": len(groups[0]),
                "rollouts": int(sum(table["n"].sum() for table in groups)),
            },
        }
    )
    words = {name: _Words(page.index[name]) for name in ("answers", "reasons", "finish")}
    for number, (point, table) in enumerate(zip(spec["points"], groups, strict=True)):
        page.texts.append(_read_step(number, point["stems"], table, shown, page.index, words))
    return page


def _training(path: str | None) -> dict[str, list[float | None]]:
    """The training curve, at most `MAX_POINTS` evenly spaced steps.

    Empty without metrics, and for rewards without rollouts, whose metrics have none of `CURVES`.
    """
    if path is None:
        return {}
    frame = read_parquet(path).to_pandas().sort_values("step")
    frame = frame.iloc[sorted({round(i) for i in np.linspace(0, len(frame) - 1, min(len(frame), MAX_POINTS))})]
    shown = [name for name in CURVES if name in frame and frame[name].notna().any()]
    if not shown:
        return {}
    columns = {name: [_rounded(value) for value in frame[name].astype(float)] for name in shown}
    return {"step": frame["step"].tolist(), **columns}


class _Words:
    """A number for each distinct string, -1 for None; new strings are appended to `table`."""

    def __init__(self, table: list[str]) -> None:
        self.table, self.places = table, {word: i for i, word in enumerate(table)}

    def __call__(self, word: str | None) -> int:
        if word is None:
            return -1
        if word not in self.places:
            self.places[word] = len(self.table)
            self.table.append(word)
        return self.places[word]


def _groups(stems: Sequence[str]) -> pd.DataFrame:
    """The groups of all suites of one checkpoint, indexed by (data set, problem), each data set once."""
    parts: list[pd.DataFrame] = []
    seen: set[str] = set()
    for stem in stems:
        table = read_parquet(stem + GROUPS, GROUP_COLUMNS).to_pandas()
        parts.append(table[~table["dataset"].isin(seen)])
        seen |= set(table["dataset"])
    return pd.concat(parts, ignore_index=True).set_index(["dataset", "problem_id"])


def choose(groups: Sequence[pd.DataFrame], max_rollouts: int) -> list[Key]:
    """The problems to show, at least one, from those that every step has, in the order of the first step."""
    common = groups[0].index
    for table in groups[1:]:
        common = common[common.isin(table.index)]
    if not len(common):
        raise SrtError("the steps of this run share no problem: evaluate all of them on the same data")
    n = max(int(table.loc[common, "n"].max()) for table in groups)
    budget = max(1, max_rollouts // (n * len(groups)))
    sets: dict[str, list[Key]] = {}
    for dataset, identity in common:
        sets.setdefault(str(dataset), []).append((str(dataset), str(identity)))
    wanted: dict[str, int] = {}
    left = budget
    # smallest sets first, so that whatever they leave unused is split among the rest
    for rank, name in enumerate(sorted(sets, key=lambda name: (len(sets[name]), name))):
        wanted[name] = min(len(sets[name]), -(-left // (len(sets) - rank)))
        left -= wanted[name]
    out: list[Key] = []
    for name, keys in sets.items():
        count = wanted[name]
        out += [keys[i * len(keys) // count] for i in range(count)]
    return out


def _averages(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """What the row of steps shows for each data set: averages over all of its problems."""
    out = {}
    for dataset, part in table.groupby(level=0, sort=False):
        known = part["pass_rate"].notna()
        out[str(dataset)] = {
            "problems": len(part),
            "avg": _rounded(part.loc[known, "pass_rate"].astype(float).mean()),
            "maj": _rounded(part.loc[known, "majority_correct"].astype(float).mean()),
            "consistency": _rounded(part["consistency_all"].mean()),
            "parsed": _rounded(part["parsed"].sum() / part["n"].sum()),
            "truncated": _rounded(part["truncated"].sum() / part["n"].sum()),
            "length": _rounded(np.average(part["mean_length"], weights=part["n"])),
        }
    return out


def _rounded(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _problems(paths: Sequence[Path], shown: Sequence[Key]) -> dict[Key, dict[str, str]]:
    wanted, found = set(shown), {}
    for path in paths:
        dataset = str(parquet_metadata(path).get("dataset", path.name.split(".")[0]))
        rows = read_parquet(path, ["id", "problem", "answer", "subject", "level"]).to_pylist()
        for row in rows:
            if (dataset, row["id"]) in wanted:
                found[dataset, row["id"]] = {key: row[key] for key in ("problem", "answer", "subject", "level")}
    for dataset, identity in shown:
        if (dataset, identity) not in found:
            raise SrtError(f"problem '{identity}' of '{dataset}' is in no problem table: name its file with --problems")
    return found


def shortened(text: str, most: int = MAX_CHARS) -> str:
    """A short text unchanged; of a long one the beginning and end, with a note of how many characters are left out."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\n\n[… {len(text) - most:,} characters left out …]\n\n{text[len(text) - (most - head) :]}"


class Response(NamedTuple):
    """One response with its score."""

    sample: int
    text: str
    length: int  # tokens
    finish: str
    answer: str | None
    class_id: int
    correct: bool
    reason: str | None


def _responses(stems: Sequence[str], wanted: set[Key]) -> dict[Key, list[Response]]:
    """The responses to the wanted problems at one checkpoint; a data set in two suites counts once."""
    out: dict[Key, list[Response]] = {}
    for stem in stems:
        rest = wanted - set(out)
        scores = {row[:3]: row[3:] for row in _rows(stem + SCORES, SCORE_COLUMNS, rest)}
        for dataset, identity, sample, *response in _rows(stem + SAMPLES, SAMPLE_COLUMNS, rest):
            if (dataset, identity, sample) not in scores:
                raise SrtError(f"{stem}{SCORES} lacks sample {sample} of '{identity}': score again")
            score = scores[dataset, identity, sample]
            out.setdefault((dataset, identity), []).append(Response(sample, *response, *score))
    return out


def _read_step(
    step: int, stems: Sequence[str], groups: pd.DataFrame, shown: Sequence[Key], index: dict[str, Any],
    words: Mapping[str, _Words],
) -> list[str]:  # fmt: skip
    """Append the groups and responses of one step to `index`; returns the responses' texts, in the same order."""
    responses = _responses(stems, set(shown))
    texts: list[str] = []
    columns = index["responses"]
    for place, key in enumerate(shown):
        if key not in responses:
            raise SrtError(f"problem '{key[1]}' of '{key[0]}' has groups but no samples in {stems[0]}: sample again")
        group = groups.loc[key]
        first, first_text, winner = len(columns["sample"]), len(texts), -1
        for response in sorted(responses[key]):
            if response.answer is not None and response.answer == group["majority"] and response.class_id >= 0:
                winner = int(response.class_id)
            answer = None if response.answer is None else shortened(response.answer, MAX_ANSWER)
            columns["answer"].append(words["answers"](answer))
            columns["class"].append(int(response.class_id))
            columns["correct"].append(int(bool(response.correct)))
            columns["length"].append(int(response.length))
            columns["finish"].append(words["finish"](response.finish))
            columns["reason"].append(words["reasons"](response.reason))
            columns["sample"].append(int(response.sample))
            texts.append(shortened(response.text))
        known = pd.notna(group["pass_rate"])
        index["groups"].append(
            {
                "step": step, "problem": place, "first": first, "n": len(columns["sample"]) - first,
                "text": first_text, "winner": winner,
                "pass": _rounded(group["pass_rate"]) if known else None,
                "right": bool(group["majority_correct"]) if known else None,
                "consistency": _rounded(group["consistency_all"]),
            }
        )  # fmt: skip
    return texts


def _rows(path: str, columns: list[str], wanted: set[Key]) -> list[tuple[Any, ...]]:
    """The rows of the wanted problems, with token ids replaced by their number; read in batches, in bounded memory."""
    out: list[tuple[Any, ...]] = []
    with open_parquet(path) as file:
        missing = [c for c in columns if c not in file.schema_arrow.names]
        if missing:
            raise SrtError(f"{path} lacks the column '{missing[0]}': make it again")
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            pairs = zip(batch.column("dataset").to_pylist(), batch.column("problem_id").to_pylist(), strict=True)
            mask = [pair in wanted for pair in pairs]
            if not any(mask):
                continue
            some = batch.filter(mask)
            values = [pc.list_value_length(some.column(c)) if c == "token_ids" else some.column(c) for c in columns]
            out += zip(*(v.to_pylist() for v in values), strict=True)
    return out
