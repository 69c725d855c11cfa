"""Select rows of a source table and convert them to problem rows: column names, types of answers, filters.

The order is fixed: filter, columns, empty answers, ids, holdout, conflicts, repeats, shuffle, take. All rows that are
left out are counted, and those dropped for a fault are listed by id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from srt.common.errors import SrtError, nearest
from srt.data.keys import holdout_part, question_key, short_hash
from srt.data.question_text import is_blank, normalise

if TYPE_CHECKING:
    from srt.config.datasets import HubDataset, LocalDataset

REQUIRED = ("problem", "answer")
UNLABELLED = "columns: {answer: null}"
DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id", "ID", "problem_id", "unique_id"),
    "problem": ("problem", "Problem", "question", "Question", "prompt"),
    # the last one is what verl reads and DAPO publishes: {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}
    "answer": ("answer", "Answer", "final_answer", "solution", "Solution", "reward_model.ground_truth"),
    "source": ("source",),
    "subject": ("subject", "type"),
    "level": ("level", "difficulty"),
}


Row = dict[str, Any]  # text by column of a problem table; the answer of unlabelled data is None


@dataclass
class Selection:
    """The selected rows of a source, and what happened to the others."""

    rows: list[Row]
    columns: dict[str, str]
    counts: dict[str, int]
    dropped: dict[str, list[str]] = field(default_factory=dict)
    conflicts: list[dict[str, str]] = field(default_factory=list)  # groups of one question: {id: answer}


def select_rows(
    config: LocalDataset | HubDataset, where: str, stem: str, names: list[str], rows: list[dict[str, Any]]
) -> Selection:
    """The problem rows that `config` selects.

    `where` names the source in errors. `stem` is the prefix of numbered ids and the default of `source`; the number in
    such an id is the row's index in the source, so it does not depend on filter, order or take.
    """
    if not rows:
        raise SrtError(f"{where} has no rows: check the file or the split")
    counts = {"read": len(rows)}
    if config.expect_rows is not None and len(rows) != config.expect_rows:
        raise SrtError(
            f"{where} has {len(rows)} rows, not the {config.expect_rows} of `expect_rows`: check its version"
        )
    names = with_nested(names, rows)
    columns = map_columns(config.columns, where, names)
    places = _in_ranges(config.ranges, where, names, rows, _filtered(config.filter, where, names, rows))
    counts["filtered"] = len(places)
    dropped: dict[str, list[str]] = {}
    ours: list[Row] = []
    origin: list[int] = []
    for place in places:
        row = _convert(config, where, stem, columns, place, rows[place])
        if row["answer"] is not None and is_blank(row["answer"]):
            if config.on_empty_answer == "error":
                raise SrtError(
                    f"{where} row {place} (id '{row['id']}'): the answer (column '{columns['answer']}') is empty: "
                    f"fill it, or set `on_empty_answer: drop`, or `{UNLABELLED}` for data without answers"
                )
            dropped.setdefault("empty answer", []).append(row["id"])
            continue
        ours.append(row)
        origin.append(place)
    counts["answered"] = len(ours)
    _unique_ids(where, ours, origin)
    if config.holdout_fraction is not None:
        ours = [row for row in ours if holdout_part(row["problem"], config.holdout_fraction) == config.part]
        counts[str(config.part)] = len(ours)
    ours, conflicts = _conflicts(config.on_conflicting_answers, where, ours, counts, dropped)
    ours = _repeats(config.on_duplicate_problem, where, ours, counts, dropped)
    if config.shuffle_seed is not None:
        ours.sort(key=lambda row: (short_hash(f"{config.shuffle_seed}\0{row['id']}"), row["id"]))
    if config.take is not None:
        if len(ours) < config.take:
            raise SrtError(f"{where}: `take: {config.take}` is more than the {len(ours)} rows left: lower it")
        ours = ours[: config.take]
    if not ours:
        raise SrtError(f"{where}: no row is left after selection: check `filter`, `part` and the file")
    counts["kept"] = len(ours)
    return Selection(ours, columns, counts, dropped, conflicts)


def with_nested(names: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """The names of columns, each followed by `column.key` for every key of the objects in it."""
    found = []
    for name in names:
        objects = (row[name] for row in rows if isinstance(row.get(name), dict))
        found += [name, *dict.fromkeys(f"{name}.{key}" for one in objects for key in one)]
    return list(dict.fromkeys(found))


def cell(row: Mapping[str, Any], name: str) -> Any:
    """The cell of a column, or the value in it under the key of `column.key`; None if there is none."""
    if name in row:
        return row[name]
    column, _, key = name.partition(".")
    inside = row.get(column)
    return inside.get(key) if isinstance(inside, dict) else None


def map_columns(asked: Mapping[Any, str | None], where: str, names: list[str]) -> dict[str, str]:
    """Our column -> the source's column: the configured one, else the first usual name that the source has."""
    columns = {}
    for ours, usual in DEFAULT_COLUMNS.items():
        if ours in asked:
            theirs = asked[ours]
            if theirs is not None and theirs not in names:
                raise SrtError(
                    f"{where} lacks the column '{theirs}' of `columns.{ours}` (it has: {', '.join(names)})"
                    f"{nearest(theirs, names)}"
                )
        else:
            theirs = next((name for name in usual if name in names), None)
        if theirs is not None:
            columns[ours] = theirs
        elif ours in REQUIRED and not (ours == "answer" and ours in asked):
            unlabelled = f", or `{UNLABELLED}` for data without answers" if ours == "answer" else ""
            raise SrtError(
                f"{where} has no column for '{ours}' (looked for: {', '.join(usual)}; it has: {', '.join(names)}): "
                f"set `columns: {{{ours}: ...}}`{unlabelled}"
            )
    return columns


def _filtered(wanted: Mapping[str, Any], where: str, names: list[str], rows: list[dict[str, Any]]) -> list[int]:
    places = list(range(len(rows)))
    for column, values in wanted.items():
        if column not in names:
            raise SrtError(
                f"{where} lacks the column '{column}' of `filter` (it has: {', '.join(names)}){nearest(column, names)}"
            )
        # unlike ==, repr distinguishes true from 1
        allowed = {repr(value) for value in (values if isinstance(values, list) else [values])}
        left = [place for place in places if repr(cell(rows[place], column)) in allowed]
        if not left:
            seen = sorted({repr(cell(rows[place], column)) for place in places})
            shown = ", ".join(seen[:8]) + (", …" if len(seen) > 8 else "")
            raise SrtError(f"{where}: no row has {column} = {' or '.join(sorted(allowed))} (it has: {shown})")
        places = left
    return places


def _in_ranges(
    ranges: Mapping[str, tuple[float, float]], where: str, names: list[str], rows: list[dict[str, Any]],
    places: list[int],
) -> list[int]:  # fmt: skip
    """The places whose numbers lie within `ranges`, including the ends; a value that is not a number is in no range."""
    for column, (low, high) in ranges.items():
        if column not in names:
            raise SrtError(
                f"{where} lacks the column '{column}' of `ranges` (it has: {', '.join(names)}){nearest(column, names)}"
            )
        left = [p for p in places if _is_number(cell(rows[p], column)) and low <= cell(rows[p], column) <= high]
        if not left:
            raise SrtError(f"{where}: no row has a number from {low:g} to {high:g} in {column}: widen `ranges`")
        places = left
    return places


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _convert(
    config: LocalDataset | HubDataset, where: str, stem: str, columns: Mapping[str, str], place: int, row: Mapping
) -> Row:
    at = f"{where} row {place}"

    def text(ours: str) -> str:
        return as_text(cell(row, columns[ours]), at, columns[ours]) if ours in columns else ""

    def question() -> str:
        value = cell(row, columns["problem"])
        return user_message(value, at, columns["problem"]) if isinstance(value, list) else text("problem")

    def reference() -> str:
        try:
            return text("answer").strip()
        except SrtError as error:
            raise SrtError(f"{error}, or `{UNLABELLED}` for data without answers") from None

    problem, identity = question(), text("id").strip()
    if "id" not in columns:
        identity = f"{stem}-{place:06d}"
    if is_blank(identity):
        raise SrtError(f"{at}: the id (column '{columns['id']}') is empty: fill it, or set `columns: {{id: null}}`")
    if is_blank(problem):
        raise SrtError(f"{at} (id '{identity}'): the problem (column '{columns['problem']}') is empty: fill it")
    answer = reference() if "answer" in columns else None
    if answer and config.answer_format == "gsm8k":
        answer = gsm8k_answer(answer, f"{at} (id '{identity}')")
    return {
        "id": identity,
        "problem": problem,
        "answer": answer,
        "source": text("source") or stem,
        "subject": text("subject"),
        "level": text("level"),
        "task": config.task,
    }


def user_message(value: list[Any], at: str, column: str) -> str:
    """The text of a prompt that is a list of chat messages, as verl reads it: exactly one message, of the user."""
    if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
        return as_text(value[0].get("content"), at, f"{column}.content")
    roles = [one.get("role") if isinstance(one, dict) else type(one).__name__ for one in value]
    raise SrtError(
        f"{at}: column '{column}' holds a list of {', '.join(map(str, roles)) or 'nothing'}, not one message of the "
        "role 'user': choose another column with `columns: {problem: ...}`"
    )


def as_text(value: Any, at: str, column: str) -> str:
    """A cell as text: '' for null and NaN, the digits for integers and integral floats; an error for other types."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SrtError(f"{at}: column '{column}' holds half a surrogate pair: repair the text") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise SrtError(f"{at}: column '{column}' holds {value}, not a finite number: correct it")
        return str(int(value)) if value == value // 1 else str(value)
    raise SrtError(
        f"{at}: column '{column}' holds {type(value).__name__}, not text or a number: choose another column "
        "with `columns`, such as 'column.key' for a key of an object"
    )


def gsm8k_answer(text: str, at: str) -> str:
    """The final answer of a GSM8K solution: after the last '####', without thousands commas."""
    _, mark, answer = text.rpartition("####")
    if not mark:
        raise SrtError(f"{at}: the answer has no '####': set `answer_format: plain`, or another answer column")
    return answer.strip().replace(",", "")


def _unique_ids(where: str, rows: Iterable[Row], origin: list[int]) -> None:
    first: dict[str, int] = {}
    for row, place in zip(rows, origin, strict=True):
        if row["id"] in first:
            raise SrtError(
                f"{where}: rows {first[row['id']]} and {place} have the same id '{row['id']}': make the ids unique, "
                "or set `columns: {id: null}` to number the rows"
            )
        first[row["id"]] = place


def _conflicts(
    policy: str, where: str, rows: list[Row], counts: dict[str, int], dropped: dict[str, list[str]]
) -> tuple[list[Row], list[dict[str, str]]]:
    """Apply `policy`; return the rows, and {id: answer} of the rows of each question that has several answers."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        # texts without letters, digits or operators would all share the empty key, so each of them is its own key
        groups.setdefault(normalise(row["problem"]) or row["problem"], []).append(row)
    found = [same for same in groups.values() if len({row["answer"] for row in same}) > 1]
    if found and policy == "error":
        first = found[0][0]
        other = next(row for row in found[0] if row["answer"] != first["answer"])
        raise SrtError(
            f"{where}: '{first['id']}' and '{other['id']}' ask the same question but have the answers "
            f"'{first['answer']}' and '{other['answer']}': correct one, or set `on_conflicting_answers`"
        )
    ids = {row["id"] for same in found for row in same}
    counts["conflicting_answers"] = len(ids)
    if ids and policy == "drop":
        dropped["conflicting answers"] = [row["id"] for row in rows if row["id"] in ids]
        rows = [row for row in rows if row["id"] not in ids]
    return rows, [{row["id"]: row["answer"] for row in same} for same in found]


def _repeats(
    policy: str, where: str, rows: list[Row], counts: dict[str, int], dropped: dict[str, list[str]]
) -> list[Row]:
    """Count repeated questions with the same answer and with another one, and apply `policy`."""
    answers: dict[str, dict[str | None, str]] = {}  # question key -> answer -> id of its first row
    kept, same, other = [], [], []
    for row in rows:
        seen = answers.setdefault(question_key(row["problem"]), {})
        if seen and policy == "error":
            raise SrtError(
                f"{where}: '{row['id']}' asks the same question as '{next(iter(seen.values()))}': remove one, or set "
                "`on_duplicate_problem`"
            )
        if row["answer"] in seen:
            same.append(row["id"])
            if policy == "drop_same_answer":
                continue
        elif seen:
            other.append(row["id"])
        seen.setdefault(row["answer"], row["id"])
        kept.append(row)
    counts["repeated_questions_same_answer"], counts["repeated_questions_other_answer"] = len(same), len(other)
    if policy == "drop_same_answer" and same:
        dropped["repeated question with the same answer"] = same
    return kept
