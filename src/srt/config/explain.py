"""One sentence for the first mistake that pydantic finds: the path of keys as the user wrote it, and the fix."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from srt.common.errors import nearest
from srt.config.base import literals, unwrap

_WHAT = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number that fits 64 bits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    **dict.fromkeys(
        ("date_type", "date_parsing", "date_from_datetime_parsing", "date_from_datetime_inexact"),
        "a date such as 2024-07-26",
    ),
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass
class Problem:
    """What is wrong, and under which keys; list items are `item 1`, `item 2` and so on."""

    path: list[str]
    message: str

    def __str__(self) -> str:
        return ": ".join([*self.path, self.message])


@dataclass
class _Place:
    """The place of an error: its keys, the type there, the models on the way, and the field."""

    path: list[str] = field(default_factory=list)
    annotation: Any = None
    models: list[type[BaseModel]] = field(default_factory=list)
    info: FieldInfo | None = None
    is_key: bool = False  # the error is about a key of a mapping, not its value


def first_problem(model: type[BaseModel], error: ValidationError) -> Problem:
    """The first problem of a validation error of `model`; a misspelt key comes before the key that is then missing."""
    details = error.errors()
    first = min(details, key=lambda e: e["type"] != "extra_forbidden")
    place = _follow(model, first["loc"])
    return Problem(place.path, _message(first, place))


def show(value: Any) -> str:
    """A wrong value, short enough for a sentence."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping of keys"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def _message(error: Any, place: _Place) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if place.is_key:
        if kind == "literal_error":
            return f"unknown key {show(given)}{nearest(given, literals(place.annotation))}"
        return f"the key {show(given)} is not text: put it in quotes"
    if kind == "extra_forbidden":
        place.path.pop()
        return _unknown_key(str(error["loc"][-1]), place)
    if kind == "missing":
        return f"is missing: add it{_hint(place)}"
    if kind == "union_tag_not_found":
        key, tags = context["discriminator"].strip("'"), _tags(place)
        near = [k for k in given if nearest(str(k), [key]).startswith(" (did")] if isinstance(given, dict) else []
        if near:
            return f"unknown key '{near[0]}' (did you mean '{key}'?)"
        return f"{key} is missing: set it to one of {', '.join(tags)}"
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        place.path.append(key)
        return f"unknown value '{context['tag']}'{_choice(str(context['tag']), _tags(place))}"
    if given is None and kind != "value_error":
        return f"is empty: give it a value or remove the key{_hint(place)}"
    if kind == "literal_error":
        if isinstance(given, dict | list):
            return f"must be one of {', '.join(map(str, literals(place.annotation)))}, not {show(given)}"
        return f"unknown value {show(given)}{_choice(given, literals(place.annotation))}"
    if kind == "invalid_key":
        place.path.pop()
        return f"the key {show(given)} is not text: put it in quotes"
    if kind in _WHAT:
        return f"must be {_WHAT[kind]}, not {show(given)}{_fix(kind, given)}"
    if kind in _BOUNDS:
        text, key = _BOUNDS[kind]
        return f"must be {text} {context[key]:g}, not {show(given)}"
    if kind == "string_too_short":
        return f"is empty: give it a value{_hint(place)}"
    if kind == "too_short":
        return f"is empty: give at least {context['min_length']}{_hint(place)}"
    if kind == "too_long":
        return f"has {context['actual_length']} items: give {context['max_length']}"
    if kind == "string_pattern_mismatch":
        return f"{show(given)} does not fit{_hint(place)}"
    message = error["msg"].removeprefix("Value error, ")
    return message if kind == "value_error" else f"{message[0].lower()}{message[1:]}, not {show(given)}"


def _unknown_key(key: str, place: _Place) -> str:
    """Name the nearest known key, or the section below or above that has this key."""
    model = place.models[-1]
    for name, info in model.model_fields.items():
        if any(_is_model(m) and key in m.model_fields for m in unwrap(info.annotation)):
            return f"unknown key '{key}': it belongs under '{name}'"
    if len(place.models) > 1 and key in place.models[-2].model_fields:
        return f"unknown key '{key}': it belongs one level up"
    return f"unknown key '{key}'{nearest(key, model.model_fields)}"


def _choice(given: Any, allowed: list[Any]) -> str:
    near = nearest(given, map(str, allowed)) if isinstance(given, str) else ""
    return near if near.startswith(" (did") else f" (known: {', '.join(map(str, allowed))})"


def _hint(place: _Place) -> str:
    """The allowed values, or the first sentence of the field's description."""
    values = literals(place.annotation)
    if values:
        return f", one of {', '.join(map(str, values))}"
    if place.info is None or not place.info.description:
        return ""
    first = re.split(r"(?<=\w)\. ", place.info.description)[0]
    return f" ({first.rstrip('.')})"


def _fix(kind: str, given: Any) -> str:
    scalar = isinstance(given, str | int | float) and not isinstance(given, bool)
    if kind == "string_type" and isinstance(given, bool | int | float):
        return ": put it in quotes"
    if kind in ("list_type", "tuple_type") and scalar and given != "":
        return f": write [{given}{', …' if kind == 'tuple_type' else ''}]"
    return ": write `key: value` lines" if _WHAT[kind] == "a mapping of keys" else ""


def _tags(place: _Place) -> list[str]:
    models = [m for m in unwrap(place.annotation) if _is_model(m)]
    return [str(v) for m in models for v in literals(m.model_fields["source"].annotation)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> _Place:
    """Follow pydantic's location through the models; names of union members in it are no keys and are skipped."""
    place = _Place(annotation=model)
    for part in location:
        if part == "[key]":
            place.is_key = True
            place.path.pop()
            place.annotation = place.info and typing.get_args(unwrap(place.info.annotation)[0])[0]
            continue
        members = unwrap(place.annotation)
        models = [m for m in members if _is_model(m)]
        if len(models) > 1:  # a tagged union: its tag is in the location, but not in the file
            tagged = [m for m in models if part in literals(m.model_fields["source"].annotation)]
            place.annotation = tagged[0] if tagged else None
            continue
        if models:
            place.models.append(models[0])
            place.path.append(str(part))
            place.info = models[0].model_fields.get(str(part))
            place.annotation = place.info.annotation if place.info else None
            continue
        containers = [m for m in members if typing.get_origin(m) in (dict, list, tuple)]
        if isinstance(part, int):
            place.path.append(f"item {part + 1}")
        elif containers and typing.get_origin(containers[0]) is dict:
            place.path.append(str(part))
        else:
            continue  # the name of a union's member
        if containers:
            arguments = typing.get_args(containers[0])
            place.annotation = arguments[-1] if typing.get_origin(containers[0]) is dict else arguments[0]
    return place
