"""Responses to the same prompts before and after training, as a table (Table 1).

The prompts are those that `problems` names, or those whose pass rate changed most between the first and the last of
`samples` (in either direction; ties in the order of the groups file). Each shows its first response, never a chosen
one. The picture shortens long texts in the middle, so that the end with its boxed answer stays; the CSV has the full
text.

Options
    samples     [{"label": "before", "samples": path, "groups": path}, ...], two or more, in the order of columns
    tables      paths of the problem tables
    rows        how many prompts; default 3
    problems    ids of the prompts, in this order, instead of `rows`; a prompt without samples is replaced by the one
                whose pass rate changed most
    names       {data set: name in the figure}
`datasets` of the spec, if any, says which data sets to take prompts from.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from srt.common.errors import SrtError, nearest
from srt.common.io import open_parquet, read_parquet
from srt.common.progress import log
from srt.figures import style
from srt.figures.spec import ExamplesSpecOptions, Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUP_COLUMNS = [
    "dataset", "problem_id", "reference", "n", "majority", "majority_count", "majority_correct", "pass_rate",
]  # fmt: skip
FONT_SIZE = 6.2  # points, of the monospaced text
_ADVANCE = 0.602  # width of a DejaVu Sans Mono character over its size
_LEADING = 1.25  # line height over the font's size
_LINE = FONT_SIZE * _LEADING / 72  # inches
_MAX_LINES = 14  # of one cell
_PROMPT_SHARE = 0.27  # of the table's width
_GUTTER = 0.14  # inches between columns
_MARGIN = 0.06  # inches


def draw(spec: Spec) -> tuple[Figure, pd.DataFrame]:
    """The table as a figure, and all of its text as a frame, one row per prompt and label."""
    options: ExamplesSpecOptions = spec.options
    groups = [_groups(source.groups, spec) for source in options.samples]
    chosen = _choose(groups, spec)
    texts = _texts(spec, chosen)
    records = []
    responses = [_first_responses(source.samples, chosen) for source in options.samples]
    for dataset, problem_id in chosen:
        for source, table, response in zip(options.samples, groups, responses, strict=True):
            group = table.loc[(dataset, problem_id)]
            records.append(
                {
                    "dataset": dataset,
                    "problem_id": problem_id,
                    "problem": texts[problem_id],
                    "reference": group["reference"],
                    "series": source.label,
                    "sample": 0,
                    "response": response[(dataset, problem_id)],
                    "majority": group["majority"],
                    "majority_count": group["majority_count"],
                    "n": group["n"],
                    "majority_correct": group["majority_correct"],
                    "pass_rate": group["pass_rate"],
                }
            )
    table = pd.DataFrame(records)
    return _render(table, spec), table


def _groups(path: str, spec: Spec) -> pd.DataFrame:
    """The groups of a file, indexed by (data set, problem id), of the spec's data sets if it names any."""
    table = read_parquet(path, _GROUP_COLUMNS).to_pandas()
    twice = table.loc[table.duplicated(["dataset", "problem_id"]), "problem_id"]
    if len(twice):
        raise SrtError(f"{path}: problem '{twice.iloc[0]}' has two rows; score it again")
    present = list(dict.fromkeys(table["dataset"]))
    for dataset in spec.datasets:
        if dataset not in present:
            raise SrtError(
                f"{spec.where()}: data set '{dataset}' is not in {path}, which has {', '.join(present) or 'no rows'}"
                f"{nearest(dataset, present)}; evaluate it there or take it out of 'datasets'"
            )
    if spec.datasets:
        table = table[table["dataset"].isin(spec.datasets)]
    return table.set_index(["dataset", "problem_id"])


def _choose(groups: list[pd.DataFrame], spec: Spec) -> list[tuple[str, str]]:
    """The (data set, problem id) pairs to show: named ones in their order, others in that of the first groups file."""
    options: ExamplesSpecOptions = spec.options
    first, last = groups[0], groups[-1]
    common = first.index
    for table in groups[1:]:
        common = common[common.isin(table.index)]
    if not len(common):
        raise SrtError(
            f"{spec.where()}: {options.samples[0].groups} and {options.samples[-1].groups} share no problem; sample "
            "the same data from both models"
        )
    change = (last["pass_rate"].loc[common] - first["pass_rate"].loc[common]).abs()
    # Rounded, so that equal changes tie whatever their last bit is; the stable sort then keeps the file's order.
    ranked = change.round(9).sort_values(ascending=False, kind="stable").index
    if options.problems:
        return _by_id(options.problems, [(str(dataset), str(problem)) for dataset, problem in ranked], spec)
    return [(str(dataset), str(problem)) for dataset, problem in common[common.isin(ranked[: options.rows])]]


def _by_id(wanted: list[str], ranked: list[tuple[str, str]], spec: Spec) -> list[tuple[str, str]]:
    """The wanted prompts; one without samples (too long for the model, other data) is replaced by the next `ranked`."""
    there = {problem: (dataset, problem) for dataset, problem in reversed(ranked)}
    rest = iter([pair for pair in ranked if pair[1] not in wanted])
    chosen = []
    for name in wanted:
        pair = there.get(name) or next(rest, None)
        if name not in there:
            instead = f"problem '{pair[1]}', whose pass rate changed most, replaces it" if pair else "it is left out"
            log(f"{spec.where()}: problem '{name}' of options.problems is not among the samples: {instead}")
        chosen += [pair] if pair else []
    return chosen


def _texts(spec: Spec, chosen: list[tuple[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in spec.options.tables:
        table = read_parquet(path, ["id", "problem"])
        for problem_id, text in zip(table["id"].to_pylist(), table["problem"].to_pylist(), strict=True):
            if texts.setdefault(problem_id, text) != text:
                raise SrtError(
                    f"{spec.where()}: problem '{problem_id}' has another text in {path} than in an earlier table of "
                    "options.tables; name only those of 'datasets'"
                )
    for _, problem_id in chosen:
        if problem_id not in texts:
            raise SrtError(
                f"{spec.where()}: problem '{problem_id}' is not in {', '.join(spec.options.tables)}; name its table too"
            )
    return texts


def _first_responses(path: str, chosen: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The response of sample 0 of each chosen prompt, read in batches without token ids and log-probs."""
    from pyarrow import compute

    wanted = set(chosen)
    found: dict[tuple[str, str], str] = {}
    columns = ["dataset", "problem_id", "sample", "response"]
    with open_parquet(path) as file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise SrtError(f"{path} lacks the column '{missing[0]}' (it has: {', '.join(file.schema_arrow.names)})")
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.filter(compute.equal(batch["sample"], 0)).to_pylist():
                key = (row["dataset"], row["problem_id"])
                if key in wanted:
                    found[key] = row["response"]
            if len(found) == len(wanted):
                break
    for dataset, problem_id in chosen:
        if (dataset, problem_id) not in found:
            raise SrtError(f"{path} has no sample 0 of problem '{problem_id}' of '{dataset}'; sample it again")
    return found


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """The characters that the monospaced font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans Mono")).get_charmap())


def wrapped(text: str, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of at most `width` characters, the middle left out with an ellipsis.

    Line ends show as ↵, characters that the font lacks as □. Two thirds of a shortened text are its beginning.

    >>> wrapped("one two three", 7, 5)
    ['one two', 'three']
    """
    flat = " ".join(text.strip().replace("\r\n", "\n").replace("\n", " ↵ ").split()).replace("↵ ↵", "↵↵")
    flat = "".join(char if ord(char) in _drawable() else "□" for char in flat)
    lines = textwrap.wrap(flat, width, break_long_words=True, break_on_hyphens=False) or ["(empty)"]
    if len(lines) <= most:
        return lines
    head = max(1, (2 * most) // 3)
    tail = most - head - 1
    return [*lines[:head], "  …", *(lines[-tail:] if tail > 0 else [])]


def _status(record: Any) -> str:
    """One line about the whole group of a response."""
    if record["majority"] is None or pd.isna(record["majority"]):
        return f"no answer in {record['n']}"
    answer = textwrap.shorten(str(record["majority"]), 14, placeholder="…")
    verdict = "correct" if record["majority_correct"] else "wrong"
    return f"majority {answer} ({record['majority_count']}/{record['n']}), {verdict}"


@dataclass(frozen=True)
class _Row:
    """One prompt: for each column its grey line and its wrapped text; the height of the row in inches."""

    cells: list[tuple[str, list[str]]]
    height: float


def _rows(table: pd.DataFrame, spec: Spec, characters: list[int]) -> list[_Row]:
    """The rows of the picture; `characters` is how many fit into a line of each column."""
    rows = []
    for _, records in table.groupby(["dataset", "problem_id"], sort=False):
        first = records.iloc[0]
        texts = [(f"{spec.name(first['dataset'])}, reference {first['reference']}", first["problem"])]
        texts += [(_status(record), record["response"]) for _, record in records.iterrows()]
        cells = [
            (head[:most], wrapped(text, most, _MAX_LINES)) for (head, text), most in zip(texts, characters, strict=True)
        ]
        rows.append(_Row(cells, max(len(text) for _, text in cells) * _LINE + 1.9 * _LINE))
    return rows


def _render(table: pd.DataFrame, spec: Spec) -> Figure:
    """The table with rules above, below and under the head: one column for the prompt and one per label."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    labels = [source.label for source in spec.options.samples]
    inner = style.WIDTH - 2 * _MARGIN - _GUTTER * len(labels)
    widths = [inner * _PROMPT_SHARE] + [inner * (1 - _PROMPT_SHARE) / len(labels)] * len(labels)
    lefts = [_MARGIN + sum(widths[:i]) + _GUTTER * i for i in range(len(widths))]
    rows = _rows(table, spec, [int(width * 72 / (FONT_SIZE * _ADVANCE)) for width in widths])
    top = 2.1 * _LINE
    height = top + sum(row.height for row in rows) + 2 * _MARGIN
    figure = Figure(figsize=(style.WIDTH, height))

    def put(x: float, y: float, text: str, **how: Any) -> None:
        how = {"fontsize": FONT_SIZE, "va": "top", "ha": "left", "linespacing": _LEADING, **how}
        figure.text(x / style.WIDTH, 1 - y / height, text, **how)

    def rule(y: float, width: float) -> None:
        level = 1 - y / height
        ends = [_MARGIN / style.WIDTH, 1 - _MARGIN / style.WIDTH]
        figure.add_artist(Line2D(ends, [level, level], color="black", linewidth=width))

    y = _MARGIN
    rule(y, 1.0)
    for x, head in zip(lefts, ["Prompt", *labels], strict=True):
        put(x, y + 0.55 * _LINE, head, fontsize=7.5, fontweight="bold")
    y += top
    for number, row in enumerate(rows):
        rule(y, 0.8 if number == 0 else 0.4)
        for x, (head, text) in zip(lefts, row.cells, strict=True):
            put(x, y + 0.4 * _LINE, head, color=style.GREY, fontsize=FONT_SIZE)
            put(x, y + 1.55 * _LINE, "\n".join(text), family="DejaVu Sans Mono")
        y += row.height
    rule(y, 1.0)
    return figure
