"""config/README.md and the JSON schemas, generated from the pydantic models, so that neither can be out of date.

What a key means is said once, in the description of its field. Here are only the introduction, and how a type is
written for people (README) and for editors (JSON schema, draft 7, which yaml-language-server reads).
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined

from srt.config import alarm, claims, datasets, evaluation, figures, models, plan, preferences, root, runs
from srt.config.base import unwrap
from srt.config.intro import INTRODUCTION

README = "config/README.md"
SCHEMAS = "workflow/schemas"
# Sections that may have a file of their own, and thus a schema of their own.
SECTIONS = ("models", "datasets", "suites", "runs", "figures", "claims")
_REF = "#/definitions/"
_NUMBERS = {int: "integer", float: "number", str: "text", bool: "true / false", Any: "any"}
_SYMBOLS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}

# What local and hub data sets share: shown once.
TABLE: type[BaseModel] = datasets.LocalDataset.__mro__[1]

CLAIM_OPTIONS = (claims.RunOptions, claims.TestOptions, claims.MetricOptions)

RUNS = (
    runs.Run,
    runs.Checkpoint,
    runs.Validation,
    runs.Curriculum,
    runs.Refill,
    evaluation.Probe,
    preferences.Preference,
)

# The README's chapters: heading, remark, models.
CHAPTERS: tuple[tuple[str, str, tuple[type[BaseModel], ...]], ...] = (
    ("Main file", "`config.yaml`, or the file after `--configfile`.", (root.Config,)),
    ("`sampling`", "", (evaluation.SamplingConfig,)),
    ("`scoring`", "", (evaluation.ScoringConfig,)),
    (
        "`models`",
        "`{id: entry}`; `source` chooses the kind of entry. Every kind has these keys:",
        (
            models.ModelBase,
            models.ModelSampling,
            models.JobSize,
            models.HubModel,
            models.LocalModel,
            models.GgufModel,
            models.Example,
            models.TinyModel,
            models.PretrainPart,
        ),
    ),
    (
        "`datasets`",
        "`{id: entry}`; `source` chooses the kind of entry (docs/data.md).",
        (datasets.ReasoningGymDataset, datasets.MixPart, datasets.LocalDataset, datasets.HubDataset, TABLE),
    ),
    (
        "`suites`",
        "`{id: [data set, …]}`: the data sets that one job samples together. Every data set is a suite. Or:",
        (evaluation.Suite,),
    ),
    ("`runs`", "`{id: entry}`, in `experiments.yaml`.", RUNS),
    ("`train` and `train_defaults`", "", (runs.Train,)),
    (
        "`figures`",
        "`{id: entry}`; the id is a target of Snakemake.",
        (figures.Figure, figures.Panel, *figures.OPTIONS.values(), figures.Mark),
    ),
    (
        "`claims`",
        "`{id: entry}`; what each estimator measures and when a claim is supported: docs/claims.md.",
        (claims.Claim, claims.Expect, *CLAIM_OPTIONS, *claims.OPTIONS.values()),
    ),
    ("`alarm`", "", (alarm.AlarmRule,)),
    ("`plan`", "", (plan.PlanConfig,)),
)


def readme() -> str:
    """The text of config/README.md."""
    parts = [INTRODUCTION.strip(), "## Keys", "Generated from the code. A key without a default must be given."]
    for heading, remark, members in CHAPTERS:
        parts += [f"### {heading}", *([remark] if remark else [])]
        for model in members:
            if model is not members[0] or model is datasets.ReasoningGymDataset:
                parts.append(f"#### {_heading(model)}")
            if model is TABLE:
                parts.append("Local and hub data sets have these keys, too.")
            elif model not in (models.ModelBase, root.Config):
                parts.append(" ".join((model.__doc__ or "").split()))
            parts.append(_table(model))
        if runs.Train in members:
            parts.append(_presets())
    return "\n\n".join(parts) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of the main file, with a definition for every section and every kind of entry."""
    _, top = models_json_schema([(root.Config, "validation")], ref_template=_REF + "{model}")
    definitions = {name: _draft7(part) for name, part in top["$defs"].items()}
    main = definitions.pop("Config")
    main.pop("required", None)  # the sections may be in files
    properties = main["properties"]
    defaults = properties["train_defaults"]
    properties["train_defaults"] = {"description": defaults["description"], "allOf": [{"$ref": _REF + "Train"}]}
    for section in SECTIONS:
        definitions[section] = properties[section]
        properties[section] = {"$ref": _REF + section}
    # a run takes what it lacks over from the one that it extends; templates, with `_`, may lack anything
    run = definitions["Run"]
    run["anyOf"] = [{"required": run.pop("required")}, {"required": ["extends"]}]
    definitions["runs"]["patternProperties"] = {"^_": {"type": "object"}}
    file = {
        "type": ["string", "array"],
        "items": {"type": "string"},
        "description": "YAML file that is this section, or a list of such files; from the folder snakemake runs in.",
    }
    properties["files"] = {
        "type": "object",
        "description": "Sections in files of their own.",
        "properties": {section: file for section in SECTIONS},
        "additionalProperties": False,
    }
    for entry, key, options in (("Figure", "kind", figures.OPTIONS), ("Claim", "estimator", claims.OPTIONS)):
        definitions |= _options_by_kind(entry, definitions[entry], key, options)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of the SRT workflow",
        **{k: v for k, v in main.items() if k != "title"},
        "definitions": dict(sorted(definitions.items())),
    }


def _options_by_kind(
    name: str, entry: dict[str, Any], key: str, options: typing.Mapping[str, type[BaseModel]]
) -> dict[str, Any]:
    """Let the `options` of an entry's schema be those of the kind that `key` names; returns their definitions.

    Their names begin with the entry's: figures and claims both have a `GapOptions`.
    """
    entry["properties"]["options"].pop("additionalProperties", None)
    _, made = models_json_schema([(m, "validation") for m in options.values()], ref_template=_REF + "{model}")
    entry["allOf"] = [
        {
            "if": {"properties": {key: {"const": kind}}, "required": [key]},
            "then": {"properties": {"options": {"$ref": _REF + name + model.__name__}}},
        }
        for kind, model in options.items()
    ]
    own = {model.__name__ for model in options.values()}
    return {name * (each in own) + each: _draft7(part) for each, part in made["$defs"].items()}


def files() -> dict[str, str]:
    """Every generated file: path from the repository's root -> text."""
    made = {README: readme(), f"{SCHEMAS}/config.schema.json": _json(schema())}
    for section in SECTIONS:
        if section != "suites":  # which is too small for a file; its definition is there all the same
            link = {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": f"config.schema.json{_REF}{section}"}
            made[f"{SCHEMAS}/{section}.schema.json"] = _json(link)
    return made


def stale(folder: Path) -> list[str]:
    """The generated files that are missing in `folder` or differ from what the models say."""
    return [
        name
        for name, text in files().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def type_name(info: FieldInfo) -> str:
    """A field's type for people: `integer > 0`, `clean` or `authors`, list of text, …"""
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
            if bound is not None and bound < 2**31:  # the bound of seeds says nothing to people
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
            continue  # is in the table of what they share
        cells = (f"`{name}`", type_name(info), _default(info), str(info.description))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        if name == "local_dir":
            rows.append(
                "| `files` | mapping of text or lists | `{}` | Sections in files of their own: `{section: FILE}`, or "
                "a list of files. |"
            )
    return "\n".join(rows) if len(rows) > 2 else "No key of its own."


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
    keys = list(next(iter(runs.PRESETS.values())))
    rows = ["What the presets set:", "", "| key | " + " | ".join(f"`{p}`" for p in runs.PRESETS) + " |"]
    rows.append("|---|" + "---|" * len(runs.PRESETS))
    for key in keys:
        values = (json.dumps(preset[key]).strip('"') for preset in runs.PRESETS.values())
        rows.append(f"| `{key}` | " + " | ".join(f"`{v}`" for v in values) + " |")
    return "\n".join(rows)


def _draft7(part: Any) -> Any:
    """pydantic's JSON schema without what draft 7 lacks (prefixItems, discriminator) and without generated titles."""
    if isinstance(part, list):
        return [_draft7(p) for p in part]
    if not isinstance(part, dict):
        return part
    made = {
        k: _draft7(v) for k, v in part.items() if k != "discriminator" and not (k == "title" and isinstance(v, str))
    }
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    return made


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
