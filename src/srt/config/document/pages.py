"""The pages of docs/config that have tables of all keys, one page per topic."""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from srt.config import alarm, claims, datasets, evaluation, figures, models, plan, preferences, root, runs, train
from srt.config.base import unwrap

_NUMBERS = {int: "integer", float: "number", str: "text", bool: "true / false", Any: "any"}
_SYMBOLS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}

# Keys that local and hub data sets share, shown once.
TABLE: type[BaseModel] = datasets.LocalDataset.__mro__[1]

CLAIM_OPTIONS = (claims.RunOptions, claims.TestOptions, claims.MetricOptions)

RUNS = (
    runs.Run,
    runs.Checkpoint,
    runs.Validation,
    runs.Curriculum,
    runs.Refill,
    runs.StopAt,
    evaluation.Probe,
    preferences.Preference,
)


def _with_parts(*entries: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """The models, each followed by those that its fields hold."""
    found: list[type[BaseModel]] = []
    for entry in entries:
        types = [
            t for info in entry.model_fields.values() for m in unwrap(info.annotation) for t in (m, *typing.get_args(m))
        ]
        found += [entry, *(t for t in types if isinstance(t, type) and issubclass(t, BaseModel))]
    return tuple(dict.fromkeys(found))


Chapter = tuple[str, str, tuple[type[BaseModel], ...]]  # heading, remark, models
# file -> title, chapters; a page with one chapter has its heading as title
PAGES: dict[str, tuple[str, tuple[Chapter, ...]]] = {
    "main": ("The main file", (("", "`config.yaml`, or the file given by `--configfile`.", (root.Config,)),)),
    "models": (
        "`models`",
        (
            (
                "",
                "`{id: entry}`; `source` selects the kind of entry. Keys of every kind:",
                _with_parts(models.ModelBase, *unwrap(models.ModelConfig)),
            ),
        ),
    ),
    "datasets": (
        "`datasets` and `suites`",
        (
            (
                "`datasets`",
                "`{id: entry}`; `source` selects the kind of entry (docs/data.md).",
                (*_with_parts(*unwrap(datasets.DatasetConfig)), TABLE),
            ),
            (
                "`suites`",
                "`{id: [data set, …]}`: the data sets that one job samples together. Every data set is also a suite.",
                (evaluation.Suite,),
            ),
        ),
    ),
    "runs": ("`runs`", (("", "`{id: entry}`, in `experiments.yaml`.", RUNS),)),
    "train": ("`train` and `train_defaults`", (("", "", (train.Train,)),)),
    "evaluation": (
        "`sampling`, `scoring`, `gradings`, `evaluate`",
        (
            ("`sampling`", "", (evaluation.SamplingConfig,)),
            ("`scoring`", "", (evaluation.ScoringConfig,)),
            ("`gradings`", "", (evaluation.Gradings,)),
            ("`evaluate`", "", (evaluation.Evaluate,)),
        ),
    ),
    "figures": (
        "`figures`",
        (
            (
                "",
                "`{id: entry}`; the id is a target of Snakemake.",
                (figures.Figure, figures.Panel, *figures.OPTIONS.values(), figures.Mark),
            ),
        ),
    ),
    "claims": (
        "`claims`",
        (
            (
                "",
                "`{id: entry}`. docs/claims.md says what each estimator measures and when a claim is supported.",
                (claims.Claim, claims.Expect, *CLAIM_OPTIONS, *claims.OPTIONS.values()),
            ),
        ),
    ),
    "alarm_plan": ("`alarm` and `plan`", (("`alarm`", "", (alarm.AlarmRule,)), ("`plan`", "", (plan.PlanConfig,)))),
}


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    return {name: _page(title, chapters) for name, (title, chapters) in PAGES.items()}


def members() -> list[type[BaseModel]]:
    """The models of all pages."""
    return [model for _, chapters in PAGES.values() for _, _, models in chapters for model in models]


def _page(title: str, chapters: tuple[Chapter, ...]) -> str:
    parts = [f"# {title}", "A key without a default is required."]
    for heading, remark, found in chapters:
        parts += [part for part in (f"## {heading}" if heading else "", remark) if part]
        for model in found:
            if model is not found[0] or model is datasets.ReasoningGymDataset:
                parts.append(f"{'###' if heading else '##'} {_heading(model)}")
            if model is TABLE:
                parts.append("Keys of both local and hub data sets.")
            elif model not in (models.ModelBase, root.Config):
                parts.append(inspect.cleandoc(model.__doc__ or ""))
            parts.append(_table(model))
        if train.Train in found:
            parts.append(_presets())
    return "\n\n".join(parts) + "\n"


def type_name(info: FieldInfo) -> str:
    """A field's type, as the pages have it: `integer > 0`, `clean` or `authors`, list of text, …"""
    text = _type(info.annotation, info.metadata)
    return f"{text} or null" if type(None) in typing.get_args(info.annotation) else text


def _type(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *extra = typing.get_args(annotation)
        return _type(inner, [m for e in extra for m in (getattr(e, "metadata", None) or [e])])
    texts, bounds = list(dict.fromkeys(_member(m) for m in unwrap(annotation))), []
    for constraint in metadata:
        for key, symbol in _SYMBOLS.items():
            bound = getattr(constraint, key, None)
            if bound is not None and bound < 2**31:  # seeds are below 2**31, which no reader needs to know
                bounds.append(f"{symbol} {bound:g}")
    return " or ".join(texts) + (f" {', '.join(bounds)}" if bounds else "")


def _member(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{v}`" for v in arguments)
    if origin is dict:
        return f"mapping of {_type(arguments[1])}"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _heading(annotation)
    return _NUMBERS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _heading(model: type[BaseModel]) -> str:
    """`MixPart` -> mix part."""
    if model is TABLE:
        return "local and hub"
    name = model.__name__.removesuffix("Config").replace("Dataset", "DataSet")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    shared = [m for m in (models.ModelBase, TABLE, *CLAIM_OPTIONS) if issubclass(model, m) and model is not m]
    for name, info in model.model_fields.items():
        if any(name in m.model_fields and _default(info) == _default(m.model_fields[name]) for m in shared):
            continue  # it is in the table of shared keys
        cells = (f"`{name}`", type_name(info), _default(info), str(info.description))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        if name == "local_dir":
            rows.append(
                "| `files` | mapping of text or lists | `{}` | Files of sections, as `{section: FILE}` or "
                "`{section: [FILE, …]}`. |"
            )
    return "\n".join(rows) if len(rows) > 2 else "No keys beyond the shared ones."


def _default(info: FieldInfo) -> str:
    value = info.default_factory() if info.default_factory is not None else info.default  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        return "the defaults below"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float):
        return f"`{_number(value)}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _number(value: float) -> str:
    """As YAML 1.1 reads it: with a point before the exponent."""
    mantissa, e, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}" if e else mantissa


def _presets() -> str:
    keys = list(next(iter(train.PRESETS.values())))
    rows = ["Values of the presets:", "", "| key | " + " | ".join(f"`{p}`" for p in train.PRESETS) + " |"]
    rows.append("|---|" + "---|" * len(train.PRESETS))
    for key in keys:
        values = (json.dumps(preset[key]).strip('"') for preset in train.PRESETS.values())
        rows.append(f"| `{key}` | " + " | ".join(f"`{v}`" for v in values) + " |")
    return "\n".join(rows)
