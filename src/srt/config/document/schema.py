"""The JSON schema of the configuration (draft 7, which yaml-language-server reads), from the pydantic models."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from srt.config import claims, figures, root
from srt.config.base import SECTIONS

_DRAFT = "http://json-schema.org/draft-07/schema#"
_REF = "#/definitions/"


def schemas() -> dict[str, dict[str, Any]]:
    """By name: the schema of the main file, and one for files of each section, which refers to it."""
    made = {"config": main_schema()}
    for section in SECTIONS:
        if section != "suites":  # a section too small for a separate file
            made[section] = {"$schema": _DRAFT, "$ref": f"config.schema.json{_REF}{section}"}
    return made


def main_schema() -> dict[str, Any]:
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
    # a run inherits what it lacks from the one that it extends; entries with `_` may lack anything
    run = definitions["Run"]
    run["anyOf"] = [{"required": run.pop("required")}, {"required": ["extends"]}]
    definitions["runs"]["patternProperties"] = {"^_": {"type": "object"}}
    file = {
        "type": ["string", "array"],
        "items": {"type": "string"},
        "description": "YAML file of this section, or a list of files; paths start from snakemake's working folder.",
    }
    properties["files"] = {
        "type": "object",
        "description": "Sections in separate files.",
        "properties": {section: file for section in SECTIONS},
        "additionalProperties": False,
    }
    for entry, key, options in (("Figure", "kind", figures.OPTIONS), ("Claim", "estimator", claims.OPTIONS)):
        definitions |= _options_by_kind(entry, definitions[entry], key, options)
    return {
        "$schema": _DRAFT,
        "title": "Configuration of the SRT workflow",
        **{k: v for k, v in main.items() if k != "title"},
        "definitions": dict(sorted(definitions.items())),
    }


def _options_by_kind(
    name: str, entry: dict[str, Any], key: str, options: typing.Mapping[str, type[BaseModel]]
) -> dict[str, Any]:
    """Make the `options` of an entry's schema depend on the kind that `key` names; returns their definitions.

    Their names begin with the entry's, since figures and claims both have a `GapOptions`.
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


def _draft7(part: Any) -> Any:
    """pydantic's JSON schema without what draft 7 lacks (prefixItems, discriminator), and without generated titles."""
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
